"""Hearing: clips are made once, beside their twins, whatever was interrupted."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from pandas import DataFrame
from pandas.testing import assert_frame_equal

from audio_lens import Direction
from audio_lens.audio.level import loudness
from audio_lens.recipes.concept import Concept
from audio_lens.recipes.study.hearing import Hearing, Way
from audio_lens.recipes.study.ledger import Ledger
from audio_lens.testing import random_musicgen

LOUD = Concept(
    name="loudness",
    positive=("a loud organ", "a loud song"),
    negative=("a quiet organ", "a quiet song"),
    heard="loudness",
    unit="LUFS",
    poles=("quieter", "louder"),
    neutral=("an organ", "drums", "a song", "a band", "a flute"),
)
UP = Direction({("resid_post", 1): torch.randn(64, generator=torch.Generator().manual_seed(3))})
ASKED = {"prompts": ("an organ", "drums"), "seeds": (0, 1), "coefficients": (-2.0, 0.0, 2.0)}


@pytest.fixture(scope="module")
def lens():
    return random_musicgen(n_layers=2)


def hearing(lens, folder, **options):
    settings = {"seconds": 2.2, "rows_at_once": 3, "progress": False, **options}
    return Hearing(lens, LOUD, Ledger(folder, {"concept": "loudness"}), **settings)


def steer(listener):
    return listener.steered("dose", "real", UP, Way(), **ASKED)


def watched(listener, monkeypatch):
    """The batches that a listener plays from now on."""
    play, played = listener._play, []
    monkeypatch.setattr(
        listener, "_play", lambda cells, *rest: played.append(cells) or play(cells, *rest)
    )
    return played


def test_rows_are_clips_beside_their_twins(lens, tmp_path) -> None:
    rows = steer(hearing(lens, tmp_path / "study"))
    assert [(r["coefficient"], r["prompt"], r["seed"]) for r in rows[:5]] == [
        (0.0, "an organ", 0), (0.0, "an organ", 1), (0.0, "drums", 0), (0.0, "drums", 1),
        (-2.0, "an organ", 0),
    ]  # fmt: skip
    assert len(rows) == 12
    ledger = Ledger(tmp_path / "study", {"concept": "loudness"})
    for row in (rows[1], rows[6], rows[11]):
        with lens.steer(UP, coefficient=row["coefficient"]):
            (clip,) = lens.generate(
                row["prompt"], seconds=2.2, seed=row["seed"], row_group=3, progress=False
            )
        assert torch.equal(ledger.codes([row])[0], clip.codes)
        assert row["loudness"] == pytest.approx(loudness(clip.samples, 16000))
        twin = next(r for r in rows[:4] if (r["prompt"], r["seed"]) == (row["prompt"], row["seed"]))
        assert row["change"] == pytest.approx(row["loudness"] - twin["loudness"])
        assert row["change loudness"] == row["change"]
    assert {row["change"] for row in rows[:4]} == {0.0}
    assert "level" not in rows[0]["failed"]


def test_what_was_interrupted_is_gone_on_with_to_the_bit(lens, tmp_path, monkeypatch) -> None:
    whole = steer(hearing(lens, tmp_path / "whole"))
    listener = hearing(lens, tmp_path / "stopped")
    played, n_calls = listener._play, []

    def stopping(*args):
        n_calls.append(len(args[0]))
        if len(n_calls) == 3:
            raise KeyboardInterrupt
        return played(*args)

    monkeypatch.setattr(listener, "_play", stopping)
    with pytest.raises(KeyboardInterrupt):
        steer(listener)
    monkeypatch.undo()
    again = hearing(lens, tmp_path / "stopped")
    made = watched(again, monkeypatch)
    rows = steer(again)
    assert sum(map(len, made)) == 12 - 4  # two batches were kept: the twins, three and one
    for one, other in zip(rows, whole, strict=True):
        assert one["prompt"] == other["prompt"]
        assert np.array_equal(one["change"], other["change"], equal_nan=True)
    stores = [Ledger(tmp_path / name, {"concept": "loudness"}) for name in ("whole", "stopped")]
    codes = [store.codes(found) for store, found in zip(stores, (whole, rows), strict=True)]
    assert torch.equal(*codes)
    monkeypatch.undo()
    assert_frame_equal(DataFrame(steer(hearing(lens, tmp_path / "stopped"))), DataFrame(rows))


def test_ways_and_directions_are_kept_apart(lens, tmp_path) -> None:
    listener = hearing(lens, tmp_path / "study")
    both = steer(listener)
    cond = listener.steered("dose", "real", UP, Way(branch="cond"), **ASKED)
    other = listener.steered("dose", "random 0", UP.random_like(0), Way(), **ASKED)
    for rows in (cond, other):
        assert_frame_equal(DataFrame(rows[:4]), DataFrame(both[:4]))
        assert not np.array_equal([r["change"] for r in rows], [r["change"] for r in both])
    assert_frame_equal(DataFrame(steer(listener)), DataFrame(both))


def test_directions_that_share_batches_are_heard_as_each_alone(lens, tmp_path, monkeypatch) -> None:
    directions = {"real": UP} | {f"random {n}": UP.random_like(n) for n in range(2)}
    listener = hearing(lens, tmp_path / "together")
    played = watched(listener, monkeypatch)
    asked = {**ASKED, "prompts": ("an organ",)}
    together = listener.each_steered("dose", directions, Way(), **asked)
    # Two twins; then twelve clips in four batches, where four of each alone would take six.
    assert [len(cells) for cells in played] == [2, 3, 3, 3, 3]
    assert list(together) == list(directions)
    alone = hearing(lens, tmp_path / "alone")
    for name, direction in directions.items():
        rows = alone.steered("dose", name, direction, Way(), **asked)
        assert [row["direction"] for row in rows] == ["none"] * 2 + [name] * 4
        codes = [h.ledger.codes(found) for h, found in ((listener, together[name]), (alone, rows))]
        assert torch.equal(*codes)
        places = ["codes", "place"]
        assert_frame_equal(
            DataFrame(together[name]).drop(columns=places), DataFrame(rows).drop(columns=places)
        )


def test_prompts_of_one_length_run_together_in_a_melody_model(tmp_path, monkeypatch) -> None:
    listener = hearing(random_musicgen(n_layers=1, melody=True), tmp_path / "study")
    lens, prompts = listener.lens, LOUD.neutral
    lengths = {prompt: len(lens.text_tokens(prompt)) for prompt in prompts}
    assert len(set(lengths.values())) > 1
    played = watched(listener, monkeypatch)
    rows = listener.prompted("twins", prompts, (0, 1))
    assert [(row["prompt"], row["seed"]) for row in rows] == [
        (p, s) for p in prompts for s in (0, 1)
    ]
    for batch in played:
        assert len({lengths[cell.prompt] for cell in batch}) == 1
        assert len(batch) <= 3
    codes = listener.ledger.codes(rows)
    for place in (0, len(rows) - 1):
        row = rows[place]
        (clip,) = lens.generate(
            row["prompt"], seconds=2.2, seed=row["seed"], row_group=3, progress=False
        )
        assert torch.equal(codes[place], clip.codes)


def test_limits_pool_neutral_clips_and_both_poles(lens, tmp_path) -> None:
    listener = hearing(lens, tmp_path / "study", rows_at_once=8)
    limits = listener.limits(LOUD.neutral, n=8, first_seed=500)
    ledger = Ledger(tmp_path / "study", {"concept": "loudness"})
    pools = {stage: ledger.rows(stage) for stage in ("pool", "pool +", "pool -")}
    assert [len(rows) for rows in pools.values()] == [8, 8, 8]
    assert {row["prompt"] for row in pools["pool +"]} == set(LOUD.positive)
    assert len(limits.log_probability) == 4
    row = pools["pool -"][0]
    codes = ledger.codes([row])
    with torch.no_grad():
        nats = lens("a organ", codes).log_softmax(-1).gather(-1, codes[..., None])[..., 0].mean(-1)
    assert row["vital log_probability"] == pytest.approx(nats[0].tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"positive": ()}, "at least one prompt"),
        ({"positive": ("a loud organ",)}, "1 positive and 2 negative"),
        ({"heard": "joy"}, "no measure 'joy'"),
        ({"dev": ("a choir",)}, "'a choir' is in dev"),
        ({"positive": ("a loud organ", " ")}, "1 prompts at the poles are empty"),
        ({"positive": ("a quiet organ", "a loud song")}, "'a quiet organ' is at both poles"),
        ({"needs_pulse": True}, "got 'loudness'"),
        ({"contexts": ("a",)}, "1 contexts for 2 pairs"),
    ],
)
def test_concepts_that_cannot_be_heard_are_refused(changed, match) -> None:
    from dataclasses import asdict

    from audio_lens import InputError

    said = {**asdict(LOUD), "contexts": (), **changed}
    with pytest.raises(InputError, match=match):
        Concept(**said)


def test_shipped_concepts_hold_their_prompts() -> None:
    from audio_lens.audio.words import neutral_prompts
    from audio_lens.recipes.concept import CONCEPTS, concept

    for name in CONCEPTS:
        found = concept(name)
        assert len(found.positive) == len(found.negative) == len(found.contexts) == 100
        assert (found.dev, found.test) == (neutral_prompts("dev"), neutral_prompts("test"))
        assert not any(found.poles[1] in context for context in found.contexts)
    assert LOUD.test == tuple(p for p in LOUD.neutral if p not in LOUD.dev)
    assert len(LOUD.dev) == 2


_KILLED = """
import sys
import torch
from audio_lens import Direction
from audio_lens.recipes import Concept
from audio_lens.recipes.study.hearing import Hearing, Way
from audio_lens.recipes.study.ledger import Ledger
from audio_lens.testing import random_musicgen

loud = Concept(
    name="loudness", positive=("a loud organ",), negative=("a quiet organ",), heard="loudness",
    unit="LUFS", poles=("quieter", "louder"), neutral=("an organ", "drums"),
)
up = Direction({("resid_post", 1): torch.ones(64)})
ledger = Ledger(sys.argv[1], {"concept": "loudness"})
hearing = Hearing(
    random_musicgen(n_layers=2), loud, ledger, seconds=2.0, rows_at_once=2, progress=False
)
hearing.steered(
    "dose", "real", up, Way(), prompts=loud.neutral, seeds=range(6), coefficients=(-1.0, 0.0, 1.0)
)
"""


def test_a_killed_process_loses_nothing_that_was_kept(tmp_path) -> None:
    def start():
        return subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path / "killed")])

    file = tmp_path / "killed" / "rows" / "dose.jsonl"
    first = start()
    until = time.monotonic() + 120
    while not (file.is_file() and file.read_text().count("\n") >= 2):
        assert time.monotonic() < until
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    kept = [line for line in file.read_text().splitlines() if line.endswith("]")]
    assert 2 <= len(kept) < 12
    assert start().wait(timeout=120) == 0
    assert file.read_text().splitlines()[: len(kept)] == kept
    rows = Ledger(tmp_path / "killed", {"concept": "loudness"}).rows("dose")
    keys = [(row["prompt"], row["seed"], row["coefficient"]) for row in rows]
    assert len(keys) == len(set(keys)) == 24
