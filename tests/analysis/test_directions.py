"""Directions: what they are as data, where they come from, and that files keep them whole."""

import re

import numpy as np
import pytest
import torch

from audio_lens import Direction, difference_in_means
from audio_lens.analysis.collect import collect
from audio_lens.analysis.directions import cosine_table
from audio_lens.errors import InputError, SiteError
from audio_lens.testing import random_musicgen

FAST = ["fast piano", "a fast organ"]
SLOW = ["slow piano", "a slow organ"]


def made(*pairs, **more):
    return Direction({("resid_post", layer): torch.tensor(v) for layer, v in pairs}, **more)


def music(cache, layer):
    """resid_post at the positions of the music, where rows line up in every family."""
    return cache["resid_post", layer][:, cache.layouts[0].audio]


@pytest.fixture(scope="module")
def faster(lens):
    return difference_in_means(lens, positive=FAST, negative=SLOW, seconds=0.3, progress=False)


def test_arithmetic():
    a, b = made((0, [3.0, 4.0]), (1, [0.0, 2.0])), made((0, [1.0, 0.0]), (1, [1.0, 1.0]))
    mixed = 0.5 * a - b / 2
    assert torch.equal(mixed.layer(0), torch.tensor([1.0, 2.0]))
    assert torch.equal((-a + b).layer(1), torch.tensor([1.0, -1.0]))
    assert a.norms == {("resid_post", 0): 5.0, ("resid_post", 1): 2.0}
    assert torch.allclose(a.unit().layer(0), torch.tensor([0.6, 0.8]))
    assert a.unit().raw_norms == a.norms
    assert (2 * a).raw_norms == {("resid_post", 0): 10.0, ("resid_post", 1): 4.0}
    assert b.scaled_to(a).norms == pytest.approx(a.norms)
    assert a.cosine(b)[("resid_post", 0)] == pytest.approx(0.6)
    off = a.project_off(b)
    assert off.cosine(b)[("resid_post", 0)] == pytest.approx(0, abs=1e-6)
    assert torch.allclose((off + a.project_onto(b)).layer(1), a.layer(1))
    assert a.only(1).layers == (1,)


def test_what_numpy_and_python_give_is_taken(tmp_path, as_users_see_it):
    a = made((0, [3.0, 4.0]))
    assert torch.equal(Direction({("resid_post", 0): np.array([3, 4])}).layer(0), a.layer(0))
    assert torch.equal(sum([a, a]).layer(0), 2 * a.layer(0))
    noted = made((0, [1.0]), provenance={"n": np.int64(3), "mean": torch.ones(2)})
    kept = Direction.load(noted.save(tmp_path / "new folder" / "d.safetensors"))
    assert kept.provenance == {"n": 3, "mean": [1.0, 1.0]}


def test_frozen():
    direction = made((0, [1.0, 2.0]))
    with pytest.raises(AttributeError):
        direction.vectors = {}
    with pytest.raises(TypeError):
        direction.vectors[("resid_post", 0)] = torch.zeros(2)


def test_random_directions_are_norm_matched(faster):
    first, second = faster.random_like(0), faster.random_like(1)
    assert first.norms == pytest.approx(faster.norms, rel=1e-5)
    assert max(abs(c) for c in first.cosine(faster).values()) < 0.5
    assert max(abs(c) for c in first.cosine(second).values()) < 0.5
    assert torch.equal(first.layer(2), faster.random_like(0).layer(2))


def test_the_difference_is_that_of_plain_means(lens, faster):
    means = []
    for prompts in (FAST, SLOW):
        _, cache = lens.generate(
            prompts, seconds=0.3, seed=0, names_filter="resid_post", progress=False
        )
        # 15 frames on delays 0 to 3: all four codebooks hold codes at positions 4 to 15.
        means.append(music(cache, 1)[:, 4:16].mean((0, 1)))
        norm = music(cache, 1)[:, 4:16].norm(dim=-1).mean()
    assert torch.allclose(faster.layer(1), means[0] - means[1], atol=1e-4)
    assert faster.typical_norms["resid_post", 1] == pytest.approx(float(norm), rel=0.1)


def test_given_codes_differ_by_the_prompt_alone(lens):
    codes = lens.random_codes(frames=12)
    same = difference_in_means(
        lens, positive=FAST, negative=SLOW, codes=codes, pool="last", progress=False
    )
    _, cache = lens.run_with_cache(FAST + SLOW, codes, names_filter="resid_post")
    last = music(cache, 2)[:, 12]
    assert torch.allclose(same.layer(2), last[:2].mean(0) - last[2:].mean(0), atol=1e-4)
    assert same.provenance["codes"] == "given"


@pytest.mark.parametrize("rows", [2, 5])
def test_codes_that_are_not_the_prompts(lens, rows):
    codes = lens.random_codes(frames=6, batch=rows)
    with pytest.raises(InputError, match=f"got {rows} rows of codes for 3 prompts"):
        collect(lens, ["a", "b", "c"], codes=codes, rows_at_once=2, progress=False)


def test_a_direction_keeps_its_own_numbers():
    vector = torch.tensor([3.0, 4.0])
    direction = Direction({("resid_post", layer): vector for layer in range(2)})
    vector.zero_()
    assert direction.norms == direction.raw_norms


def test_layers_that_share_a_vector_are_saved(tmp_path):
    vector = torch.tensor([3.0, 4.0])
    direction = Direction({("resid_post", layer): vector for layer in range(2)})
    direction.save(tmp_path / "d.safetensors")
    assert torch.equal(Direction.load(tmp_path / "d.safetensors").layer(1), vector)


def test_the_first_step_and_the_other_branch(lens):
    first = collect(lens, FAST, pool="first_step", layers=0, progress=False)
    _, cache = lens.run_with_cache(FAST, lens.random_codes(frames=1), names_filter="resid_post")
    expected = music(cache, 0)[:, 0]
    assert torch.allclose(first.values["resid_post", 0], expected, atol=1e-4)
    uncond = collect(lens, FAST, branch="uncond", seconds=0.2, progress=False)
    cond = collect(lens, FAST, branch="cond", seconds=0.2, progress=False)
    assert not torch.allclose(uncond.values["resid_post", 2], cond.values["resid_post", 2])


def test_per_head_sites_and_batches(lens):
    whole = collect(lens, FAST + SLOW, site="attn.z", seconds=0.2, progress=False)
    assert whole.values["attn.z", 1].shape == (4, 4, 16)
    parts = collect(lens, FAST + SLOW, site="attn.z", seconds=0.2, rows_at_once=3, progress=False)
    assert torch.allclose(whole.values["attn.z", 1], parts.values["attn.z", 1], atol=1e-4)


def test_files_keep_everything(faster, tmp_path):
    loaded = Direction.load(faster.unit().save(tmp_path / "deep" / "faster.safetensors"))
    assert loaded.vectors.keys() == faster.vectors.keys()
    for key, vector in faster.unit().vectors.items():
        assert torch.equal(loaded.vectors[key], vector)
    assert loaded.raw_norms == faster.raw_norms
    assert loaded.typical_norms == faster.typical_norms
    assert loaded.provenance == dict(faster.provenance)
    for said in ("model", "pool", "branch", "seed", "prompts_sha256", "torch", "audio_lens"):
        assert said in loaded.provenance


def test_files_that_hold_no_direction(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(InputError, match="there is no such file"):
        Direction.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InputError, match="no safetensors file"):
        Direction.load(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="holds no direction"):
        Direction.load(tmp_path / "other.safetensors")


def test_other_models(lens, faster):
    wide = random_musicgen(n_layers=3, d_model=32, n_heads=2)
    with pytest.raises(InputError, match=re.escape("has shape (64,), but 'random' has (32,)")):
        faster.check_fits(wide)
    with pytest.raises(SiteError, match="out of range"):
        faster.check_fits(random_musicgen(n_layers=2))
    stranger = made((0, [0.0] * 63 + [1.0]), provenance={"model": "another"})
    with pytest.warns(UserWarning, match="made on 'another' and is used on 'random'"):
        stranger.check_fits(lens)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda lens: made((0, [1.0])) + made((1, [1.0])), "same sites and layers"),
        (lambda lens: made((0, [0.0, 0.0])).unit(), "length 0"),
        (lambda lens: made((0, [float("nan")])), "not finite"),
        (lambda lens: made((0, [1.0])).layer(2), "no vector at resid_post, layer 2"),
        (lambda lens: Direction({}), "at least one vector"),
        (lambda lens: Direction({"resid_post": torch.ones(2)}), "given by site and layer"),
        (lambda lens: made((0, [1.0])) + made((0, [1.0, 2.0])), r"shapes \(1,\) and \(2,\)"),
        (lambda lens: made((0, [1.0])).cosine(made((0, [1.0, 2.0]))), "of different models"),
        (
            lambda lens: cosine_table({"a": made((0, [1.0])), "b": made((1, [1.0]))}),
            "'a' and 'b' share no site",
        ),
        (lambda lens: difference_in_means(lens, positive=[], negative=SLOW), "positive must be"),
        (lambda lens: difference_in_means(lens, positive=SLOW, negative=SLOW), "are the same"),
        (lambda lens: made((0, [1.0])).scaled_to(made((1, [1.0]))), "no length to take"),
        (lambda lens: collect(lens, SLOW, seed=[1, 2, 3]), "3 seeds for"),
        (lambda lens: collect(lens, [*SLOW, None], branch="uncond"), "no unconditional half"),
        (lambda lens: collect(lens, SLOW, site="ln_final.normalized"), "cannot be pooled"),
        (lambda lens: collect(lens, SLOW, site="attn.pattern"), "cannot be pooled"),
        (lambda lens: collect(lens, SLOW, seconds=0.06), "3 frames leave no position"),
    ],
)
def test_bad_input(lens, build, said, as_users_see_it):
    with pytest.raises(ValueError, match=said):
        build(lens)
