"""Yardsticks: what a typical length and a standard deviation are for any direction."""

from dataclasses import replace

import pytest
import torch

from audio_lens import Direction
from audio_lens.analysis.collect import Activations
from audio_lens.analysis.controls import controls
from audio_lens.analysis.poles import Poles
from audio_lens.analysis.yardsticks import measured
from audio_lens.errors import InputError
from audio_lens.steering import place

UP = Direction(
    {
        ("resid_post", layer): torch.randn(64, generator=torch.Generator().manual_seed(layer))
        for layer in range(3)
    }
)


def test_sums_and_random_directions_are_measured_before_they_are_scaled() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 64, generator=generator) * torch.linspace(1, 4, 64)
    key = "resid_post", 1
    apart = [Activations({key: rows + sign}, {key: 4.0 + sign}, {}) for sign in (3.0, -3.0)]
    total = UP.only(1) + UP.only(1).random_like(0)
    with pytest.raises(InputError, match=r"yardsticks\.measured"):
        place(total, scale="proj_std", n_layers=3)
    known = measured(total, *apart)
    unit = total.unit().layer(1)
    spread = float((rows @ unit).std())
    assert known.typical_norms == {key: 4.0}
    assert place(known, scale="proj_std", n_layers=3).norms[key] == pytest.approx(spread, rel=0.01)
    pooled = Activations({key: torch.cat([side.values[key] for side in apart])}, {}, {})
    between = spread**2 + (3 * float(unit.sum())) ** 2
    assert measured(total, pooled).spreads[key] ** 2 == pytest.approx(between, rel=0.01)
    steps = [replace(side, values={key: side.values[key].view(40, 10, 64)}) for side in apart]
    assert measured(total, *steps).spreads == pytest.approx(known.spreads)
    (control,) = controls(UP.only(1), n=1, kinds=["isotropic"], poles=Poles(*apart))["isotropic"]
    along = rows @ control.unit().layer(1)
    assert control.spreads[key] == pytest.approx(float(along.std()), rel=0.01)
    with pytest.raises(InputError, match="nothing to measure on"):
        measured(total)
    with pytest.raises(InputError, match="no activations at resid_post, layer 0"):
        measured(UP, *apart)
    with pytest.raises(InputError, match="of different models"):
        measured(Direction({key: torch.ones(8)}), *apart)
