"""Steering: where each strategy adds what, at which length, and sweeps as rows of a batch."""

import pytest
import torch

from audio_lens import Direction
from audio_lens.errors import InputError, SiteError
from audio_lens.steering import place

GENERATOR = torch.Generator().manual_seed(0)
UP = Direction(
    {("resid_post", i): torch.randn(64, generator=GENERATOR) * (i + 1) for i in range(3)},
    typical_norms={("resid_post", i): 10.0 * (i + 1) for i in range(3)},
)


def added(lens, **options):
    """What steering adds to the output of each layer's MLP-less stream, by hooks around it."""
    before, after = {}, {}

    def note(store):
        def fn(tensor, *, hook):
            store[hook.layer()] = tensor.clone()

        return fn

    codes = lens.random_codes(frames=4)
    with (
        torch.no_grad(),
        lens.hooks([("resid_post", note(before))]),
        lens.steer(UP, **options),
        lens.hooks([("resid_post", note(after))]),
    ):
        lens("organ", codes)
    return {layer: (after[layer] - before[layer])[0, 0] for layer in before}


def test_one_to_one(lens):
    found = added(lens, strategy="one_to_one", source_layer=1, coefficient=2.0)
    assert torch.allclose(found[1], 2 * UP.layer(1), atol=1e-4)
    assert found[0].count_nonzero() == found[2].count_nonzero() == 0


def test_one_to_all(lens):
    found = added(lens, strategy="one_to_all", source_layer=1)
    for layer in range(3):
        assert torch.allclose(found[layer], UP.layer(1), atol=1e-4)


def test_all_to_all(lens):
    found = added(lens, strategy="all_to_all", coefficient=-1.0)
    for layer in range(3):
        assert torch.allclose(found[layer], -UP.layer(layer), atol=1e-4)


@pytest.mark.parametrize(("scale", "length"), [("raw", None), ("unit", 1.0), ("residual", 30.0)])
def test_scales(lens, scale, length):
    placed = place(UP, source_layer=2, scale=scale, n_layers=3)
    expected = float(UP.layer(2).norm()) if length is None else length
    assert placed.norms == {("resid_post", 2): pytest.approx(expected, rel=1e-5)}


def test_the_residual_scale_follows_the_layer_that_is_added_to(lens):
    placed = place(UP, strategy="one_to_all", source_layer=0, scale="residual", n_layers=3)
    assert [round(n, 3) for n in placed.norms.values()] == [10.0, 20.0, 30.0]


def test_a_direction_of_one_layer_needs_no_source(lens):
    with lens.steer(UP.only(2), coefficient=1.0):
        pass
    with pytest.raises(InputError, match="source_layer"), lens.steer(UP):
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "all_to_one"},
        {"strategy": "all_to_all", "source_layer": 1},
        {"source_layer": 1, "scale": "big"},
        {"source_layer": 7},
        {"source_layer": 1, "branch": "half"},
        {"source_layer": 1, "window": (3, 2)},
    ],
)
@pytest.mark.usefixtures("as_users_see_it")
def test_bad_options(lens, options):
    with pytest.raises((InputError, SiteError)), lens.steer(UP, **options):
        pass


def test_a_sweep_is_its_runs_one_by_one(lens):
    options = {"source_layer": 1, "window": (0.1, None), "branch": "cond"}
    rows = lens.sweep(
        ["organ", "drums"],
        direction=UP,
        coefficients=[-1, 0, 1],
        seeds=[3, 4],
        seconds=0.4,
        row_group=1,
        progress=False,
        **options,
    )
    assert [(r.coefficient, r.prompt, r.seed) for r in rows[:5]] == [
        (-1.0, "organ", 3),
        (-1.0, "organ", 4),
        (-1.0, "drums", 3),
        (-1.0, "drums", 4),
        (0.0, "organ", 3),
    ]
    settings = {"seconds": 0.4, "row_group": 1, "progress": False}
    for row in (rows[0], rows[5], rows[11]):
        with lens.steer(UP, coefficient=row.coefficient, **options):
            (alone,) = lens.generate(row.prompt, seed=row.seed, **settings)
        assert torch.equal(row.clip.codes, alone.codes)
    (twin,) = lens.generate("organ", seed=3, **settings)
    assert torch.equal(rows[4].clip.codes, twin.codes)
    assert not torch.equal(rows[0].clip.codes, twin.codes)
    said = "steered at resid_post layer 1, cond, raw x -1, from 0.1 s"
    assert rows[0].clip.interventions == (said,)


def test_a_sweep_splits_into_batches(lens):
    settings = {"direction": UP.only(1), "coefficients": [0.0, 1.0], "seeds": [0, 1]}
    settings |= {"seconds": 0.2, "row_group": 2, "progress": False}
    whole = lens.sweep(["organ", None], **settings)
    parts = lens.sweep(["organ", None], rows_at_once=3, **settings)
    assert len(whole) == len(parts) == 8
    with pytest.raises(InputError, match="at least one coefficient"):
        lens.sweep("organ", direction=UP, coefficients=[])
