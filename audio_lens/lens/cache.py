"""The activation cache: TransformerLens's, over MusicGen's sites.

Importing this module imports TransformerLens; the lens does so when a cache is first needed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache as TransformerLensCache
from transformer_lens.utilities import Slice, SliceInput

from audio_lens.errors import SiteError
from audio_lens.lens.layout import NO_PREFIX, Layout

Key = str | tuple[Any, ...]


class ActivationCache(TransformerLensCache):
    """Activations by site, the conditional branch unless asked otherwise.

    `cache["blocks.3.hook_resid_post"]`, `cache["resid_post", 3]`, `cache["attn.z", -1]` and
    TransformerLens's `cache["z", 3, "cross_attn"]` all work; `cache.branch("uncond")` is the
    other half of a guided run. Caches of a generation hold every position it visited.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2, d_model=64)
        >>> _, cache = lens.run_with_cache("a song", lens.random_codes(frames=5))
        >>> cache["resid_post", 1].shape
        torch.Size([1, 8, 64])
    """

    def __init__(
        self,
        branches: Mapping[str, Mapping[str, Tensor]],
        model: Any,
        has_batch_dim: bool = True,
        layouts: Sequence[Layout] = (),
    ) -> None:
        self.layouts = tuple(layouts)
        self._branches = {branch: dict(values) for branch, values in branches.items()}
        self._lens = model
        super().__init__(self._branches["cond"], model, has_batch_dim)

    @property
    def layout(self) -> Layout:
        """Where prefix and music lie on the `pos` axis, if it is the same for every row.

        Raises:
            SiteError: prompts of different length; `layouts` has one for each row.
        """
        if len(set(self.layouts)) > 1:
            raise SiteError(
                "the rows' texts differ in length, so their prefixes lie differently: take "
                "cache.layouts[row]."
            )
        return self.layouts[0] if self.layouts else NO_PREFIX

    @property
    def branches(self) -> tuple[str, ...]:
        """The halves of the run that it holds."""
        return tuple(self._branches)

    def branch(self, branch: str) -> "ActivationCache":
        """The cache of one half of a guided run, `"cond"` or `"uncond"`.

        Raises:
            SiteError: the run had no such half.
        """
        if branch not in self._branches:
            raise SiteError(
                f"the run had no {branch!r} half, only {list(self._branches)}: give a "
                f"guidance_scale above 1."
            )
        half = {"cond": self._branches[branch]}
        return ActivationCache(half, self.model, self.has_batch_dim, self.layouts)

    def rows(self, chosen: slice) -> "ActivationCache":
        """The cache of some rows."""
        branches = {
            branch: {name: tensor[chosen] for name, tensor in tensors.items()}
            for branch, tensors in self._branches.items()
        }
        return ActivationCache(branches, self._lens, self.has_batch_dim, self.layouts[chosen])

    def __getitem__(self, key: Key) -> Tensor:
        if isinstance(key, str) and key in self.cache_dict:
            return self.cache_dict[key]
        name = self._name(key)
        if name not in self.cache_dict:
            raise KeyError(
                f"{name} is not in the cache: it was left out by names_filter, carries nothing in "
                f"this branch, or lies behind stop_at_layer."
            )
        return self.cache_dict[name]

    def __contains__(self, key: Key) -> bool:
        try:
            self[key]
        except LookupError:
            return False
        return True

    def _name(self, key: Key) -> str:
        word, layer, kind = (*((key,) if isinstance(key, str) else key), None, None)[:3]
        gradient = word.endswith("_grad")
        word = word.removesuffix("_grad")
        if kind is not None and not word.startswith(kind):
            word = f"{kind}.{word}"
        sites = self._lens.sites.resolve(word, layers=layer)
        if len(sites) > 1:
            raise SiteError(f"{word!r} is a site of every layer: say cache[{word!r}, layer].")
        return sites[0].name + ("_grad" if gradient else "")

    # -- the same cache, changed -------------------------------------------------------------

    def _map(
        self, fn: Any, has_batch_dim: bool | None = None, layouts: Sequence[Layout] | None = None
    ) -> "ActivationCache":
        changed = {b: {n: fn(t) for n, t in v.items()} for b, v in self._branches.items()}
        keep = self.has_batch_dim if has_batch_dim is None else has_batch_dim
        layouts = self.layouts if layouts is None else layouts
        return ActivationCache(changed, self.model, keep, layouts)

    def to(self, device: str | torch.device) -> "ActivationCache":
        """The cache on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def apply_slice_to_batch_dim(self, batch_slice: Slice | SliceInput) -> "ActivationCache":
        """The cache of some rows; an integer drops the batch axis."""
        if not self.has_batch_dim:
            raise SiteError("the cache has no batch axis to slice.")
        chosen = batch_slice if isinstance(batch_slice, Slice) else Slice(batch_slice)
        rows = torch.arange(len(self.layouts)) if self.layouts else None
        kept = [] if rows is None else chosen.apply(rows, dim=0).reshape(-1).tolist()
        return self._map(
            lambda t: chosen.apply(t, dim=0),
            has_batch_dim=chosen.mode != "int",
            layouts=[self.layouts[row] for row in kept],
        )

    def remove_batch_dim(self, batch_size: int | None = None) -> "ActivationCache":
        """The cache of a single row, without its batch axis (in place, as TransformerLens)."""
        sizes = {len(tensor) for tensor in self.cache_dict.values()}
        if self.has_batch_dim and sizes - {1}:
            raise SiteError(f"cannot drop the batch axis of {max(sizes)} rows: slice one first.")
        if self.has_batch_dim:
            for values in self._branches.values():
                values.update({name: tensor[0] for name, tensor in values.items()})
            self.has_batch_dim = False
        return self

    # -- what MusicGen has and TransformerLens does not expect -------------------------------------

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn", "cross_attn"] = "all",
        apply_ln: bool = False,
        pos_slice: Slice | SliceInput = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> (
        Float[Tensor, "component *batch_and_pos d_model"]
        | tuple[Float[Tensor, "component *batch_and_pos d_model"], list[str]]
    ):
        """The stream entering a layer as a stack of what was added to it, cross-attention too.

        Arguments as in TransformerLens; `mode` also takes `"cross_attn"`.
        """
        n_layers = self.model.cfg.n_layers
        layer = n_layers if layer is None or layer == -1 else layer
        words = ["attn_out", "cross_attn_out", "mlp_out"]
        words = [word for word in words if word in self._lens.sites.shorthands]
        if mode != "all":
            words = [word for word in words if word == f"{mode}_out"]
        if not words:
            raise SiteError(f"decompose_resid(mode={mode!r}): this model has no {mode}_out.")
        parts: dict[str, Tensor] = {}
        if incl_embeds:
            parts |= {"embed": self["hook_embed"], "pos_embed": self["hook_pos_embed"]}
        for index in range(layer):
            parts |= {f"{index}_{word}": self[word, index] for word in words}
        if mlp_input:
            parts |= {f"{layer}_{word}": self[word, layer] for word in words if word != "mlp_out"}
        chosen = pos_slice if isinstance(pos_slice, Slice) else Slice(pos_slice)
        stack = torch.stack([chosen.apply(part, dim=-2) for part in parts.values()])
        if apply_ln:
            stack = self.apply_ln_to_stack(
                stack,
                layer,
                mlp_input=mlp_input,
                pos_slice=chosen,
                has_batch_dim=self.has_batch_dim,
            )
        return (stack, list(parts)) if return_labels else stack

    def accumulated_resid(
        self, layer: int | None = None, incl_mid: bool = False, *args: Any, **options: Any
    ) -> Any:
        """The stream entering each layer, stacked; options as in TransformerLens.

        `incl_mid` is refused: TransformerLens knows one stream between sublayers, MusicGen has
        two.
        """
        if incl_mid:
            raise NotImplementedError(
                "accumulated_resid(incl_mid=True) would leave resid_mid2 out. Use "
                'stack_activation("resid_mid") and stack_activation("resid_mid2").'
            )
        return super().accumulated_resid(layer, False, *args, **options)

    def _refuse(self, method: str, instead: str) -> NoReturn:
        raise NotImplementedError(
            f"{method} assumes a language model with one vocabulary; MusicGen has one per "
            f"codebook. {instead}"
        )

    def logit_lens(self, **kwargs: Any) -> NoReturn:
        """Refused: there is one unembedding per codebook."""
        self._refuse("logit_lens", "Use accumulated_resid(apply_ln=True) @ lens.W_U[codebook].")

    def logit_attrs(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: there is one unembedding per codebook."""
        self._refuse("logit_attrs", "Use decompose_resid(apply_ln=True) @ lens.W_U[codebook].")

    def get_full_resid_decomposition(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: it projects on one vocabulary and leaves cross-attention out."""
        self._refuse("get_full_resid_decomposition", "Use decompose_resid and the result sites.")

    def get_neuron_results(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: multiply `mlp.hook_post` by `lens.W_out` instead."""
        self._refuse("get_neuron_results", 'Use cache["mlp.post", l][..., None] * lens.W_out[l].')

    def stack_neuron_results(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: multiply `mlp.hook_post` by `lens.W_out` instead."""
        self._refuse("stack_neuron_results", 'Use cache["mlp.post", l][..., None] * lens.W_out[l].')
