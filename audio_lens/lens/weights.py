"""The decoder's weights in TransformerLens's shapes, as views of the model's own memory."""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from audio_lens.errors import SiteError
from audio_lens.lens.config import HFModule

PerLayer = tuple[Tensor, ...]


class Weights:
    """Weights per layer, for the lens to inherit: writing into one changes the model.

    TransformerLens multiplies from the left, `x @ W`, so these are transposed views.
    """

    _module: HFModule

    def _cross(self, view: Callable[[HFModule], Tensor]) -> PerLayer:
        if not hasattr(self._module.decoder.model.decoder.layers[0], "encoder_attn"):
            raise SiteError(
                "a melody model has no cross-attention: its text is a prefix, read by "
                "self-attention. Use W_Q, W_K, W_V and W_O."
            )
        return self._per_layer(lambda block: view(block.encoder_attn))

    def _per_layer(self, view: Callable[[HFModule], Tensor]) -> PerLayer:
        return tuple(view(block) for block in self._module.decoder.model.decoder.layers)

    @property
    def W_Q(self) -> PerLayer:
        """Queries of self-attention, `[head d_model d_head]` per layer."""
        return self._per_layer(lambda block: _into_heads(block.self_attn.q_proj, block.self_attn))

    @property
    def W_K(self) -> PerLayer:
        """Keys of self-attention, `[head d_model d_head]` per layer."""
        return self._per_layer(lambda block: _into_heads(block.self_attn.k_proj, block.self_attn))

    @property
    def W_V(self) -> PerLayer:
        """Values of self-attention, `[head d_model d_head]` per layer."""
        return self._per_layer(lambda block: _into_heads(block.self_attn.v_proj, block.self_attn))

    @property
    def W_O(self) -> PerLayer:
        """Output of self-attention, `[head d_head d_model]` per layer."""
        return self._per_layer(lambda block: _out_of_heads(block.self_attn))

    @property
    def cross_W_Q(self) -> PerLayer:
        """Queries of cross-attention, `[head d_model d_head]` per layer."""
        return self._cross(lambda attention: _into_heads(attention.q_proj, attention))

    @property
    def cross_W_K(self) -> PerLayer:
        """Keys of cross-attention, `[head d_model d_head]` per layer."""
        return self._cross(lambda attention: _into_heads(attention.k_proj, attention))

    @property
    def cross_W_V(self) -> PerLayer:
        """Values of cross-attention, `[head d_model d_head]` per layer."""
        return self._cross(lambda attention: _into_heads(attention.v_proj, attention))

    @property
    def cross_W_O(self) -> PerLayer:
        """Output of cross-attention, `[head d_head d_model]` per layer."""
        return self._cross(_out_of_heads)

    @property
    def W_in(self) -> PerLayer:
        """Into the MLP, `[d_model d_mlp]` per layer."""
        return self._per_layer(lambda block: block.fc1.weight.T)

    @property
    def W_out(self) -> PerLayer:
        """Out of the MLP, `[d_mlp d_model]` per layer."""
        return self._per_layer(lambda block: block.fc2.weight.T)

    @property
    def W_E(self) -> PerLayer:
        """Embeddings, `[d_vocab + 1, d_model]` per codebook; the last row is BOS."""
        return tuple(table.weight for table in self._module.decoder.model.decoder.embed_tokens)

    @property
    def W_U(self) -> PerLayer:
        """Unembeddings, `[d_model d_vocab]` per codebook."""
        return tuple(head.weight.T for head in self._module.decoder.lm_heads)

    @property
    def ln_final(self) -> nn.LayerNorm:
        """The final LayerNorm."""
        return self._module.decoder.model.decoder.layer_norm

    def unembed(
        self, stream: Float[Tensor, "*batch pos d_model"]
    ) -> Float[Tensor, "*batch codebook pos vocab"]:
        """Logits of a stream: the final LayerNorm and every codebook's unembedding.

        As functions, so that hooks which are in place elsewhere are not run into.
        """
        norm = self.ln_final
        stream = functional.layer_norm(
            stream, norm.normalized_shape, norm.weight, norm.bias, norm.eps
        )
        logits = [functional.linear(stream, weight.T) for weight in self.W_U]
        return torch.stack(logits, dim=-3)


def _into_heads(projection: nn.Linear, attention: HFModule) -> Float[Tensor, "head d_model d_head"]:
    heads = {"head": attention.num_heads}
    return rearrange(projection.weight, "(head d_head) d_model -> head d_model d_head", **heads)


def _out_of_heads(attention: HFModule) -> Float[Tensor, "head d_head d_model"]:
    heads = {"head": attention.num_heads}
    return rearrange(
        attention.out_proj.weight, "d_model (head d_head) -> head d_head d_model", **heads
    )
