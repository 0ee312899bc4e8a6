"""OV and QK circuits: against the heads' own results and scores."""

import pytest
import torch

from audio_lens.analysis.circuits import ov_circuit, qk_circuit
from audio_lens.errors import SiteError


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.families("mono")
def test_circuits_make_the_heads_results_and_scores(lens, cross) -> None:
    codes, kind = lens.random_codes(frames=5, seed=1), "cross_attn" if cross else "attn"
    norm = "ln_cross" if cross else "ln1"
    names = [f"{kind}.pattern", f"{kind}.result", f"{kind}.attn_scores", f"{norm}.normalized"]
    _, cache = lens.run_with_cache("a song", codes, names_filter=[*names, "text.proj"])
    read = cache[f"{norm}.normalized", 1]
    source = cache["text.proj"] if cross else read
    pattern = cache[f"{kind}.pattern", 1]
    for head in range(lens.cfg.n_heads):
        moved = source @ ov_circuit(lens, 1, cross=cross)[head].AB
        result = cache[f"{kind}.result", 1][:, :, head]
        assert torch.allclose(pattern[:, head] @ moved, result, atol=1e-4)
        looked_for = read @ qk_circuit(lens, 1, cross=cross)[head].AB @ source.transpose(-1, -2)
        scores = looked_for / lens.cfg.d_head**0.5
        found = cache[f"{kind}.attn_scores", 1][:, head]
        seen = found.isfinite() & (found > -1e30)
        assert seen.any()
        assert torch.allclose(scores[seen], found[seen], atol=1e-4)


@pytest.mark.families("mono")
def test_layers_out_of_range_are_named(lens) -> None:
    with pytest.raises(SiteError, match="layer 9 is out of range"):
        ov_circuit(lens, 9)
