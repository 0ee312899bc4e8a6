"""Running a grid: interrupts, missing cells, bounds on memory, and what is said before."""

import pytest
import torch

from audio_lens import (
    activation_patch,
    metrics,
)
from audio_lens.errors import InputError
from audio_lens.lens import blocks
from audio_lens.patching import activation
from audio_lens.patching.budget import _fixed_bytes, _row_bytes
from audio_lens.patching.experiment import lay_out


def sides_of(mono, *, corrupted):
    """Two prompts on codes of their own, scored by those of the clean side."""
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    return {
        "clean": ("a slow organ", codes[0]),
        "corrupted": (corrupted, codes[1]),
        "metric": metrics.logprob(codes[0]),
        "progress": False,
    }


def test_a_sample_of_cells_and_going_on_after_an_interrupt(mono, monkeypatch) -> None:
    asked = sides_of(mono, corrupted="a slow organ")
    whole = activation_patch(mono, **asked)
    some = activation_patch(mono, sample=5, seed=3, **asked)
    done = ~some.values.isnan()
    assert done.sum() == 5
    assert torch.allclose(some.values[done], whole.values[done])
    run = activation.run_reusing

    def interrupted(*args):
        for count, found in enumerate(run(*args)):
            if count == 10:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(activation, "run_reusing", interrupted)
    with pytest.warns(UserWarning, match="10 of 27 cells are done"):
        part = activation_patch(mono, **asked)
    monkeypatch.undo()
    finished = activation_patch(mono, resume=part, **asked)
    assert torch.allclose(finished.values, whole.values)
    with pytest.raises(InputError, match="another grid"):
        activation_patch(mono, resume=part, **(asked | {"axes": ("layer",)}))
    with pytest.raises(InputError, match=r"its site is \['resid_post'\], here"):
        activation_patch(mono, resume=part, **(asked | {"site": "mlp_out"}))
    with pytest.raises(InputError, match="its positions is"):
        activation_patch(
            mono,
            resume=activation_patch(mono, positions={"x": range(2), "y": range(2, 9)}, **asked),
            positions={"x": range(6), "y": range(6, 9)},
            **asked,
        )
    heads = asked | {"site": "attn.z", "axes": ("head",)}
    first = activation_patch(mono, layers=0, **heads)
    with pytest.raises(InputError, match="its written is"):
        activation_patch(mono, layers=2, resume=first, **heads)
    given = [activation_patch(mono, donor=torch.full((64,), float(n)), **asked) for n in range(2)]
    assert not torch.equal(given[0].values, given[1].values)
    with pytest.raises(InputError, match="its donor_sha256 is"):
        activation_patch(mono, donor=torch.ones(64), resume=given[0], **asked)
    again = activation_patch(mono, resume=some, sample=5, seed=3, **asked)
    assert (~again.values.isnan()).sum() == 5


def test_a_cell_without_a_value_stays_missing_and_the_grid_goes_on(mono, as_users_see_it) -> None:
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    whole, calls = metrics.logprob(codes[0]), []

    def fails_once(logits):
        calls.append(len(calls))
        return whole(logits) * (float("nan") if calls[-1] == 6 else 1)

    asked = {
        "clean": ("a slow organ", codes[0]),
        "corrupted": ("a fast organ", codes[1]),
        "progress": False,
    }
    with pytest.warns(UserWarning, match=r"is NaN in 1 of 27 cells, first in \{'layer': '1'"):
        result = activation_patch(mono, metric=fails_once, **asked)
    known = ~result.values.isnan()
    assert known.sum() == 26
    wanted = activation_patch(mono, metric=whole, **asked)
    assert torch.equal(result.values[known], wanted.values[known])


def test_fewer_rows_run_at_once_within_a_bound_on_memory(mono, monkeypatch) -> None:
    asked = sides_of(mono, corrupted="a fast organ")
    whole = activation_patch(mono, **asked)
    rows = []
    joins = blocks.Tail.join

    def counted(tail, layer, which):
        stream = joins(tail, layer, which)
        rows.append(tail.n_rows)
        return stream

    monkeypatch.setattr(blocks.Tail, "join", counted)
    experiment = lay_out(mono, **{k: v for k, v in asked.items() if k != "progress"})
    two_rows = (_fixed_bytes(experiment) + 2.5 * _row_bytes(experiment, 0)) / 2**30
    tight = activation_patch(mono, max_gib=two_rows, **asked)
    assert torch.allclose(tight.values, whole.values, atol=1e-6)
    assert rows[:3] == [1, 2, 1]  # three layers at position 0: two together, then one
    assert max(rows) == 3  # later positions are shorter, so more fit


def test_a_long_grid_says_how_long_before_it_starts(mono, capsys, monkeypatch) -> None:
    codes = [mono.random_codes(frames=6, seed=seed) for seed in (1, 2)]
    monkeypatch.setattr(activation, "_LONG_SECONDS", 0)
    activation_patch(
        mono,
        clean=("a slow organ", codes[0]),
        corrupted=("a fast organ", codes[1]),
        metric=metrics.logprob(codes[0]),
    )
    assert "27 cells to patch (3 layer x 9 pos): roughly" in capsys.readouterr().err
