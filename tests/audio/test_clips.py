"""Labelled clips as data: balanced labels, independent factors, splits that share nothing."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import spearmanr

from audio_lens.audio import clips
from audio_lens.errors import InputError

#: What keeps splits apart: the label itself where None, else factors taken together.
HELD = {
    "tempo": None,
    "time_signature": ("kit", "pace"),
    "note": ("instrument", "octave"),
    "interval": ("root",),
    "scale": ("root",),
    "chord_quality": ("root",),
    "progression": ("key",),
    "brightness": None,
    "instrument": ("genre", "key"),
    "level": None,
}
GRID = [task for task in HELD if task != "scale"]
ASKED = [(task, "equal") for task in HELD] + [(task, "grid") for task in GRID]
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def drawn():
    """2,000 draws of every task in both tunings; nothing is rendered."""
    return {(task, tuning): clips.TASKS[task](2000, 5, tuning=tuning) for task, tuning in ASKED}


def _binned(values: np.ndarray) -> np.ndarray:
    """Values as few categories: themselves, or sixths of their order."""
    names, codes = np.unique(values, return_inverse=True)
    return codes if len(names) <= 20 else codes * 6 // len(names)


def _association(one: np.ndarray, other: np.ndarray) -> float:
    """Cramer's V, corrected for the bias that few draws in many cells have."""
    one, other = _binned(one), _binned(other)
    table = np.zeros((one.max() + 1, other.max() + 1))
    np.add.at(table, (one, other), 1)
    n, (rows, columns) = table.sum(), table.shape
    expected = np.outer(table.sum(1), table.sum(0)) / n
    phi = np.sum((table - expected) ** 2 / expected) / n
    phi = max(0.0, phi - (rows - 1) * (columns - 1) / (n - 1))
    sizes = [size - (size - 1) ** 2 / (n - 1) for size in (rows, columns)]
    return float(np.sqrt(phi / (min(sizes) - 1)))


def test_the_measure_of_association_can_fail():
    rng = np.random.default_rng(0)
    values = rng.normal(size=2000)
    assert _association(values, values + 3 * rng.normal(size=2000)) > 0.1
    assert _association(values, rng.normal(size=2000)) < 0.1


@pytest.mark.parametrize(("task", "tuning"), ASKED)
def test_labels_are_independent_of_every_factor(drawn, task, tuning):
    for data in (drawn[task, tuning], drawn[task, tuning].train):
        for name, values in data.factors.items():
            assert _association(data.labels, values) < 0.12, name
            if data.classes is None and values.dtype.kind in "fib":
                assert abs(spearmanr(data.labels, values).statistic) < 0.1, name


@pytest.mark.parametrize(("task", "tuning"), ASKED)
def test_factors_are_independent_of_each_other(drawn, task, tuning):
    factors, held = drawn[task, tuning].factors, HELD[task] or ()
    for one, other in combinations(factors, 2):
        if not {one, other} <= set(held):
            assert _association(factors[one], factors[other]) < 0.12, (one, other)


CLASSED = [asked for asked in ASKED if asked[0] not in ("tempo", "brightness", "level")]


@pytest.mark.parametrize(("task", "tuning"), CLASSED)
def test_classes_are_balanced_in_every_split(drawn, task, tuning):
    data = drawn[task, tuning]
    even = clips.TASKS[task](10 * len(data.classes), 5, tuning=tuning)
    for made, slack in ((data, (1, 2, 2, 2)), (even, (0, 0, 0, 0))):
        parts = (made, made.train, made.validation, made.test)
        for part, most in zip(parts, slack, strict=True):
            names, counts = np.unique(part.labels, return_counts=True)
            assert set(names) == set(data.classes)
            assert counts.max() - counts.min() <= most


@pytest.mark.parametrize(
    ("task", "low", "high"), [("tempo", 50, 210), ("brightness", -10, 3), ("level", -38, -23)]
)
def test_graded_labels_cover_their_range(drawn, task, low, high):
    data = drawn[task, "equal"]
    width = high - low
    for part, slack in ((data.train, 0.02), (data.validation, 0.15), (data.test, 0.2)):
        assert low <= part.labels.min() < low + slack * width
        assert high - slack * width < part.labels.max() <= high
        spread = np.histogram(part.labels, bins=4, range=(low, high))[0] / len(part)
        assert spread.min() > 0.15
    assert data.train.labels.min() < min(data.test.labels.min(), data.validation.labels.min())


@pytest.mark.parametrize(("task", "gap"), [("tempo", 1.0), ("brightness", 0.1), ("level", 0.15)])
def test_splits_of_graded_labels_lie_apart(drawn, task, gap):
    data = drawn[task, "equal"]
    for one, other in combinations(SPLITS, 2):
        apart = np.abs(np.subtract.outer(getattr(data, one).labels, getattr(data, other).labels))
        assert apart.min() >= gap - 1e-9, (one, other)


def _held(data: clips.LabelledClips, names: tuple[str, ...]) -> set[tuple]:
    columns = [data.factors[name] for name in names]
    if "pace" in names:  # a fifth of its range, whose edges are 290 to 440 a minute in octaves
        band = 5 * np.log(data.factors["pace"] / 290) / np.log(440 / 290)
        columns = [data.factors["kit"], band.astype(int)]
    return set(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize(("task", "tuning"), [a for a in ASKED if HELD[a[0]]])
def test_what_is_held_out_is_in_one_split_only(drawn, task, tuning):
    data = drawn[task, tuning]
    seen = {split: _held(getattr(data, split), HELD[task]) for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert seen[one]
        assert not seen[one] & seen[other], (one, other)


@pytest.mark.parametrize(("task", "tuning"), ASKED)
def test_no_clip_is_in_two_splits_and_shares_are_as_said(drawn, task, tuning):
    data = drawn[task, tuning]
    columns = [values for name, values in data.table.items() if name not in ("split", "take")]
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    seen = {split: {rows[i] for i in np.nonzero(data.split == split)[0]} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not seen[one] & seen[other]
    shares = [np.mean(data.split == split) for split in SPLITS]
    assert np.allclose(shares, (0.6, 0.2, 0.2), atol=0.01)


def test_no_augmented_triad_is_in_two_splits_under_another_name(drawn):
    data = drawn["chord_quality", "equal"]
    names = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    pitches = {}
    for split in SPLITS:
        part = getattr(data, split)
        roots = part.factors["root"][part.labels == "augmented"]
        pitches[split] = {names.index(root) % 4 for root in roots}
    for one, other in combinations(SPLITS, 2):
        assert not pitches[one] & pitches[other]


def test_every_task_is_in_the_registry_and_says_what_it_is(drawn):
    assert list(clips.TASKS) == list(HELD)
    for (task, tuning), data in drawn.items():
        assert (data.task, data.tuning, len(data)) == (task, tuning, 2000)
        assert data.held_out
        assert (data.unit is None) == (data.classes is not None)
        assert data.labels.dtype.kind == ("U" if data.classes else "f")
        assert all(len(values) == 2000 for values in data.factors.values())
    assert list(clips.on_grid()) == GRID
    assert "3/2" in clips.on_grid()["interval"]
    assert "BPM" in clips.on_grid()["tempo"]


@pytest.mark.parametrize("task", HELD)
def test_the_same_arguments_give_the_same_clips(task):
    kwargs = {"seconds": 4.0, "sample_rate": 16000}
    one, again = (clips.TASKS[task](12, 7, **kwargs) for _ in range(2))
    for name, values in one.table.items():
        assert np.array_equal(values, again.table[name]), name
    assert np.array_equal(one[3].samples, again.select([3]).render(progress=False))
    other = clips.TASKS[task](12, 8, **kwargs)
    varied = "level" if task != "level" else "bpm"
    assert not np.array_equal(other.factors[varied], one.factors[varied])
    assert not np.array_equal(one[0].samples, other[0].samples)


def test_the_number_of_workers_changes_no_sample():
    data = clips.chord_quality(6, 1, seconds=2.5, sample_rate=16000)
    alone = data.render(progress=False)
    assert alone.shape == (6, 40000)
    assert alone.dtype == np.float32
    assert np.array_equal(alone, data.render(workers=2, progress=False))
    assert np.array_equal(alone, np.concatenate([clip.samples for clip in data]))


def test_clips_know_their_labels_and_subsets_keep_them():
    data = clips.interval(20, 0, seconds=2.0, sample_rate=16000)
    clip = data[-1]
    assert clip.settings["label"] == data.labels[-1]
    assert clip.settings["root"] == data.factors["root"][-1]
    assert (clip.sample_rate, clip.seconds, clip.seed) == (16000, 2.0, 0)
    test = data.test
    assert isinstance(test, clips.LabelledClips)
    assert np.array_equal(test.labels, data.labels[data.split == "test"])
    where = int(np.nonzero(data.split == "test")[0][0])
    assert np.array_equal(test[0].samples, data[where].samples)
    assert len(data.select(slice(2, 5))) == 3
    assert "20 of 2 s at 16000 Hz" in repr(data)
    assert len(clips.note(1, 0).test) == 0
    assert clips.note(1, 0, seconds=1.0).test.render(progress=False).shape == (0, 32000)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("task", "changed", "said"),
    [
        ("tempo", {"n": 0}, "n=0"),
        ("tempo", {"n": 2.5}, "n=2.5"),
        ("tempo", {"seed": -1}, "seed=-1"),
        ("tempo", {"seconds": 1.0}, "seconds=1.0: 'tempo' needs 2.5"),
        ("progression", {"seconds": 3.0}, "'progression' needs 4"),
        ("note", {"seconds": "4"}, "seconds='4'"),
        ("note", {"seconds": float("nan")}, "seconds=nan"),
        ("note", {"sample_rate": 8000}, "sample_rate=8000.*16000 at least"),
        ("note", {"sample_rate": 22051, "tuning": "grid"}, "a multiple of 50 Hz"),
        ("note", {"tuning": "just"}, "tuning='just': expected 'equal' or 'grid'"),
        ("scale", {"tuning": "grid"}, "'scale' cannot be asked.*Ask tempo, time_signature, note"),
    ],
)
def test_bad_arguments_are_named(task, changed, said):
    arguments = {"n": 4, "seed": 0, **changed}
    with pytest.raises(InputError, match=said):
        clips.TASKS[task](arguments.pop("n"), arguments.pop("seed"), **arguments)


@pytest.mark.usefixtures("as_users_see_it")
def test_bad_questions_to_a_set_are_named():
    data = clips.note(4, 0, seconds=1.0)
    with pytest.raises(IndexError, match="no clip 4: this set holds 4"):
        data[4]
    with pytest.raises(InputError, match=r"data\.select"):
        data[1:3]
    with pytest.raises(InputError, match="cannot select from 4 clips"):
        data.select(np.zeros(5, dtype=bool))
    with pytest.raises(InputError, match="workers=0"):
        data.render(workers=0)
