"""OV and QK circuits: what a head moves and what it looks for, as factored matrices.

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; the matrices are
TransformerLens's `FactoredMatrix`, so that norms, eigenvalues and compositions cost little.
"""

from typing import TYPE_CHECKING, Any

from audio_lens.errors import SiteError

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


def ov_circuit(lens: "AudioLens", layer: int, *, cross: bool = False) -> Any:
    """What each head of a layer writes for what it attends to: W_V W_O, [head d_model d_model].

    cross: of cross-attention, which reads text states.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> ov_circuit(random_musicgen(n_layers=2), 1)[3].AB.shape
        torch.Size([64, 64])
    """
    from transformer_lens import FactoredMatrix

    layer = _layer(lens, layer)
    values, out = (lens.cross_W_V, lens.cross_W_O) if cross else (lens.W_V, lens.W_O)
    return FactoredMatrix(values[layer], out[layer])


def qk_circuit(lens: "AudioLens", layer: int, *, cross: bool = False) -> Any:
    """What each head of a layer looks for: W_Q W_K^T, [head d_model d_model], query by key.

    Scores are these divided by the root of d_head.

    cross: of cross-attention, whose keys are text states.
    """
    from transformer_lens import FactoredMatrix

    layer = _layer(lens, layer)
    queries, keys = (lens.cross_W_Q, lens.cross_W_K) if cross else (lens.W_Q, lens.W_K)
    return FactoredMatrix(queries[layer], keys[layer].transpose(-1, -2))


def _layer(lens: "AudioLens", layer: int) -> int:
    if not -lens.cfg.n_layers <= layer < lens.cfg.n_layers:
        raise SiteError(f"layer {layer} is out of range: there are {lens.cfg.n_layers}.")
    return layer % lens.cfg.n_layers
