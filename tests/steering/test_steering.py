"""Steering: where each strategy adds what, at which length, and sweeps as rows of a batch."""

from functools import partial

import pytest
import torch

from audio_lens import Direction, add, clamp, project_out, schedules
from audio_lens.analysis.collect import Activations
from audio_lens.analysis.poles import Poles
from audio_lens.errors import InputError, SiteError
from audio_lens.steering import place, soft_weights

GENERATOR = torch.Generator().manual_seed(0)
UP = Direction(
    {("resid_post", i): torch.randn(64, generator=GENERATOR) * (i + 1) for i in range(3)},
    typical_norms={("resid_post", i): 10.0 * (i + 1) for i in range(3)},
)


def added(lens, direction=UP, **options):
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
        lens.steer(direction, **options),
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


def test_block(lens):
    found = added(lens, strategy="block", layers=[1, 2])
    assert found[0].count_nonzero() == 0
    for layer in (1, 2):
        assert torch.allclose(found[layer], UP.layer(layer), atol=1e-4)
    found = added(lens, strategy="block", layers=[0, 1], source_layer=2)
    assert found[2].count_nonzero() == 0
    for layer in (0, 1):
        assert torch.allclose(found[layer], UP.layer(2), atol=1e-4)


def test_weighted(lens):
    found = added(lens, strategy="weighted", weights={0: 0.5, 2: -1.0}, coefficient=2.0)
    assert torch.allclose(found[0], UP.layer(0), atol=1e-4)
    assert found[1].count_nonzero() == 0
    assert torch.allclose(found[2], -2 * UP.layer(2), atol=1e-4)


@pytest.mark.usefixtures("as_users_see_it")
def test_weights_of_heads_come_on_top_of_the_scale():
    heads = Direction(
        {("attn.z", n): torch.ones(4, 16) for n in range(2)},
        typical_norms={("attn.z", n): 6.0 for n in range(2)},
    )
    weights = soft_weights({0: [0.5, 0.75, 1.0, 0.5], 1: [0.5] * 4}, power=2)
    placed = place(heads, strategy="weighted", weights=weights, scale="resid_norm", n_layers=2)
    lengths = placed.layer(0).norm(dim=-1) / (6 / 2)  # a quarter of the square to each head
    assert lengths.tolist() == pytest.approx([0, 0.25, 1, 0])
    assert placed.layer(1).count_nonzero() == 0
    with pytest.raises(InputError, match="one per head"):
        place(heads, strategy="weighted", weights={0: torch.ones(3)}, n_layers=2)
    with pytest.raises(InputError, match="they prefer nothing"):
        soft_weights({0: 0.5, 1: 0.5})
    with pytest.raises(InputError, match="by layer"):
        soft_weights([0.5, 0.75])
    with pytest.raises(InputError, match="scores are numbers by layer"):
        soft_weights({0.5: 0.5, 1: 0.75})


def test_a_standard_deviation_of_projections_is_that_within_the_poles(lens):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 64, generator=generator) * torch.linspace(1, 4, 64)
    sides = [
        Activations({("resid_post", 1): rows + sign}, {("resid_post", 1): 1.0}, {})
        for sign in (3.0, -3.0)
    ]
    direction = Poles(*sides).difference_in_means()
    unit = torch.ones(64) / 8
    spread = float((rows @ unit).std())
    assert direction.spreads["resid_post", 1] == pytest.approx(spread, rel=0.01)
    placed = place(direction, scale="proj_std", n_layers=3)
    assert placed.norms["resid_post", 1] == pytest.approx(spread, rel=0.01)
    everywhere = place(direction, strategy="one_to_all", scale="proj_std", n_layers=3)
    assert set(everywhere.norms.values()) == set(placed.norms.values())
    found = added(lens, direction=direction, scale="proj_std")
    assert float(found[1].norm()) == pytest.approx(spread, rel=0.01)
    with pytest.raises(InputError, match="needs the spread of projections"):
        place(UP, source_layer=1, scale="proj_std", n_layers=3)


def streams(lens, **options):
    """resid_post of layer 1, plain and steered."""
    codes = lens.random_codes(frames=4)
    with torch.no_grad():
        _, plain = lens.run_with_cache("organ", codes, names_filter="resid_post")
        with lens.steer(UP, source_layer=1, **options):
            _, steered = lens.run_with_cache("organ", codes, names_filter="resid_post")
    return plain["resid_post", 1], steered["resid_post", 1]


def test_operations_other_than_addition(lens):
    unit = UP.unit().layer(1)
    plain, gone = streams(lens, op=project_out)
    assert torch.allclose(gone, plain - (plain @ unit)[..., None] * unit, atol=1e-4)
    plain, held = streams(lens, op=clamp, scale="unit", coefficient=2.5)
    assert torch.allclose(held @ unit, torch.full(held.shape[:2], 2.5), atol=1e-4)
    assert torch.allclose(held - 2.5 * unit, gone, atol=1e-4)
    plain, turned = streams(lens, op=partial(add, keep_norm=True), coefficient=3.0)
    assert torch.allclose(turned.norm(dim=-1), plain.norm(dim=-1), rtol=1e-4)
    pushed = plain + 3 * UP.layer(1)
    cosines = torch.cosine_similarity(turned, pushed, dim=-1)
    assert torch.allclose(cosines, torch.ones_like(cosines), atol=1e-5)


def test_where_a_schedule_is_zero_nothing_is_clamped(lens):
    unit = UP.unit().layer(1)
    options = {"op": clamp, "scale": "unit", "coefficient": 2.5}
    plain, held = streams(lens, schedule=schedules.every(2), **options)
    first = plain.shape[1] - 7
    assert torch.allclose(held[:, first::2] @ unit, torch.tensor(2.5), atol=1e-4)
    assert torch.equal(held[:, first + 1 :: 2], plain[:, first + 1 :: 2])
    assert torch.equal(held[:, :first], plain[:, :first])
    plain, held = streams(lens, schedule=schedules.every(2), window=(0.04, None), **options)
    assert torch.equal(held[:, : first + 2], plain[:, : first + 2])
    with pytest.raises(InputError, match="give schedule= alone"):
        streams(lens, op=clamp, schedule=schedules.every(2), coefficient=schedules.decay(0.9))
    for wrong in ({"scale": "unit"}, {"strategy": "weighted", "weights": {1: 1.0}}):
        with (
            pytest.raises(InputError, match="direction and not its length"),
            lens.steer(UP.only(1), op=project_out, **wrong),
        ):
            pass


def test_a_direction_of_single_prompts_has_no_spread(lens):
    sides = [
        Activations({("resid_post", 1): torch.ones(1, 64) * n}, {("resid_post", 1): 1.0}, {})
        for n in (1, 2)
    ]
    assert Poles(*sides).difference_in_means().spreads == {}


def test_nothing_lies_along_a_vector_of_length_zero(lens):
    nothing = Direction({("resid_post", 1): torch.zeros(64)})
    codes = lens.random_codes(frames=4)
    plain = lens("organ", codes)
    for op in (project_out, clamp, add, partial(add, keep_norm=True)):
        with lens.steer(nothing, op=op):
            assert torch.allclose(lens("organ", codes), plain, atol=1e-5)


def test_several_at_once_are_their_sum(lens):
    down = Direction({("resid_post", 1): torch.ones(64)})
    codes = lens.random_codes(frames=4)
    with lens.steer(UP, source_layer=1, coefficient=0.5), lens.steer(down, coefficient=-2.0):
        nested = lens("organ", codes)
    with lens.steer(0.5 * UP.only(1) - 2.0 * down):
        summed = lens("organ", codes)
    assert torch.allclose(nested, summed, atol=1e-4)


def test_a_schedule_times_rows(lens):
    settings = {"seconds": 0.2, "progress": False}
    steered = lens.sweep(
        "organ", direction=UP.only(1), coefficients=[0.0, 1.0],
        schedule=schedules.every(2), **settings,
    )  # fmt: skip
    with lens.steer(UP.only(1), coefficient=schedules.every(2)):
        (alone,) = lens.generate("organ", **settings)
    (twin,) = lens.generate("organ", **settings)
    assert torch.equal(steered[0].clip.codes, twin.codes)
    assert torch.equal(steered[1].clip.codes, alone.codes)
    assert steered[1].clip.interventions[0].endswith("raw x 1 x every 2 steps")
    for options in ({"schedule": schedules.every(2) * [1, 2]}, {"rows": [0]}):
        with pytest.raises(InputError, match="rows are laid out here"):
            lens.sweep("organ", direction=UP.only(1), coefficients=[0, 1], **options)
    with pytest.raises(InputError, match="no unsteered twin"):
        lens.sweep("organ", direction=UP.only(1), coefficients=[0, 1], op=clamp)


def test_nothing_stays_behind(lens):
    codes = lens.random_codes(frames=4)
    plain = lens("organ", codes)
    with pytest.raises(ZeroDivisionError), lens.steer(UP, strategy="all_to_all"):
        1 / 0  # noqa: B018
    with (
        pytest.raises(InputError),
        lens.steer(UP, strategy="all_to_all", coefficient=lambda hook: float("nan")),
    ):
        lens("organ", codes)
    assert torch.equal(lens("organ", codes), plain)


@pytest.mark.parametrize(("scale", "length"), [("raw", None), ("unit", 1.0), ("resid_norm", 30.0)])
def test_scales(lens, scale, length):
    placed = place(UP, source_layer=2, scale=scale, n_layers=3)
    expected = float(UP.layer(2).norm()) if length is None else length
    assert placed.norms == {("resid_post", 2): pytest.approx(expected, rel=1e-5)}


def test_the_residual_scale_follows_the_layer_that_is_added_to(lens):
    placed = place(UP, strategy="one_to_all", source_layer=0, scale="resid_norm", n_layers=3)
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
        {"strategy": "block"},
        {"strategy": "block", "layers": [3]},
        {"strategy": "block", "layers": []},
        {"strategy": "weighted"},
        {"strategy": "weighted", "weights": {5: 1.0}},
        {"source_layer": 1, "weights": {1: 1.0}},
        {"source_layer": 1, "schedule": schedules.every(2), "coefficient": lambda hook: 1.0},
        {"source_layer": "1"},
        {"source_layer": 1.0},
        {"source_layer": 1, "coefficient": "2"},
        {"source_layer": 1, "coefficient": [None]},
        {"source_layer": 1, "window": 2.0},
        {"source_layer": 1, "schedule": 2.0},
        {"source_layer": 1, "op": "add"},
        {"source_layer": 1, "op": add(torch.ones(64))},
        {"source_layer": 1, "op": lambda tensor, coefficient, hook: tensor},
        {"strategy": "block", "layers": [0.5]},
        {"strategy": "weighted", "weights": [1.0, 2.0]},
        {"strategy": "weighted", "weights": {"one": 1.0}},
        {"strategy": "weighted", "weights": {1: "much"}},
    ],
)
@pytest.mark.usefixtures("as_users_see_it")
def test_bad_options(lens, options):
    with pytest.raises((InputError, SiteError)), lens.steer(UP, **options):
        pass


@pytest.mark.usefixtures("as_users_see_it")
def test_names_that_do_not_exist_are_answered_with_the_nearest(lens):
    with (
        pytest.raises(InputError, match="did you mean 'one_to_all'"),
        lens.steer(UP, strategy="one-to-all"),
    ):
        pass
    with pytest.raises(InputError, match="did you mean 'resid_norm'"):
        place(UP, source_layer=1, scale="residnorm", n_layers=3)
    with pytest.raises(TypeError, match="did you mean 'coefficient'"), lens.steer(UP, coeficient=1):
        pass


@pytest.mark.families("mono")
def test_an_unconditional_half_that_is_not_there_is_refused(lens):
    codes = lens.random_codes(frames=4)
    with lens.steer(UP, source_layer=1, branch="uncond"), pytest.raises(Exception, match="uncond"):
        lens("organ", codes)


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


def test_what_is_no_direction_is_named_and_so_are_batches_of_nothing(lens, as_users_see_it):
    up = Direction({("resid_post", 1): torch.ones(64)})
    with (
        pytest.raises(InputError, match="one Direction, got list: directions add"),
        lens.steer([up, up]),
    ):
        pass
    with pytest.raises(InputError, match="rows_at_once=-1"):
        lens.sweep("a song", direction=up, coefficients=[1.0], rows_at_once=-1)


@pytest.mark.parametrize("frames", [1, 4, 6])
def test_a_direction_by_codebook_acts_on_each_codebook_in_front_of_the_blocks(lens, frames):
    generator = torch.Generator().manual_seed(1)
    width = lens.cfg.n_codebooks
    each = torch.randn(width, 64, generator=generator)
    codes, site = lens.random_codes(frames=frames), "blocks.0.hook_resid_pre"
    for chosen in (each, each * torch.eye(width)[1][:, None]):
        direction = Direction({("embed.codebook", -1): chosen})
        plain = lens.run_with_cache("organ", codes, names_filter=site)[1][site]
        with lens.steer(direction, coefficient=2.0):
            steered = lens.run_with_cache("organ", codes, names_filter=site)[1][site]
        music = lens.run_with_cache("organ", codes, names_filter=site)[1].layouts
        start = music[0].audio.start if music else 0
        moved = (steered - plain)[0, start:]
        assert torch.allclose(moved, (2 * chosen.sum(0)).expand_as(moved), atol=1e-4)
        assert torch.allclose(steered[0, :start], plain[0, :start], atol=1e-6)


def test_a_direction_at_a_place_without_time_is_refused(lens):
    with pytest.raises(SiteError, match="is no place for a direction"):
        Direction({("attn.pattern", 0): torch.ones(4)}).check_fits(lens)
    with pytest.raises(InputError, match=r"has shape \(64,\), but .* has \(\d, 64\) there"):
        Direction({("embed.codebook", -1): torch.ones(64)}).check_fits(lens)
