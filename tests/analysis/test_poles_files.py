"""Poles come back from a file as they were, layers in order."""

import pytest
import torch

from audio_lens import InputError
from audio_lens.analysis.collect import Activations
from audio_lens.analysis.poles import Poles


def side(seed, norms):
    generator = torch.Generator().manual_seed(seed)
    values = {
        (site, layer): torch.randn(3, 4, generator=generator)
        for site in ("resid_post", "attn.z")
        for layer in range(12)
    }
    return Activations(values, dict.fromkeys(values, 2.5) if norms else {}, {"pool": "mean_steps"})


@pytest.mark.parametrize("norms", [True, False])
def test_poles_come_back(tmp_path, norms) -> None:
    poles = Poles(side(0, norms), side(1, norms), texts=(("a", "b", "c"), ("d", "e", "f")))
    again = Poles.load(poles.save(tmp_path / "poles.safetensors"))
    assert again.texts == poles.texts
    for kept, made in ((again.positive, poles.positive), (again.negative, poles.negative)):
        assert list(kept.values) == list(made.values)
        assert all(torch.equal(kept.values[key], made.values[key]) for key in made.values)
        assert (kept.typical_norms, kept.made) == (made.typical_norms, made.made)


def test_files_that_hold_no_poles_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        Poles.load(tmp_path / "none")
    (tmp_path / "torn").write_bytes(b"torn")
    with pytest.raises(InputError, match="is no safetensors file"):
        Poles.load(tmp_path / "torn")
    direction = Poles(side(0, True), side(1, True)).difference_in_means()
    with pytest.raises(InputError, match=r"has the format 'audio_lens\.direction"):
        Poles.load(direction.save(tmp_path / "direction"))
