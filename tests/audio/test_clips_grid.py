"""Grid twins: every sound is a multiple of 25 Hz by absolute time, and ratios are exact."""

from fractions import Fraction

import numpy as np
import pytest

from audio_lens.audio import clips
from audio_lens.audio._notes import Note, Sound, play, tone
from audio_lens.audio._questions import INSTRUMENTS
from audio_lens.audio._strokes import BEDS, KITS, Stroke, Studio, strike
from audio_lens.audio._tonal import FIGURES

RATE = 16000
PERIOD = 640
TONAL = ("note", "interval", "chord_quality", "progression")


@pytest.mark.parametrize("rate", [16000, 32000])
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_a_held_note_repeats_every_40_ms(instrument, rate):
    wave = tone(Sound(instrument, -3.0, rate, grid=True), 225.0, 123, rate)
    period = rate // 25
    assert np.allclose(wave[:period], wave[period : 2 * period], atol=1e-9)
    assert not np.allclose(wave[: period // 2], wave[period // 2 : period], atol=0.1)


def test_a_note_is_tied_to_absolute_time():
    sound = Sound("organ", 0.0, RATE, grid=True)
    early, late = (play([Note(t, 300.0, 1.0, 2.0)], sound, 4 * RATE) for t in (0.0, 0.5013))
    held = slice(RATE, RATE + PERIOD)
    ratio = early[held] @ late[held] / np.sqrt((early[held] ** 2).sum() * (late[held] ** 2).sum())
    assert ratio > 0.999
    free = Sound("organ", 0.0, RATE, grid=False)
    early, late = (play([Note(t, 300.0, 1.0, 2.0)], free, 4 * RATE) for t in (0.0, 0.5013))
    ratio = early[held] @ late[held] / np.sqrt((early[held] ** 2).sum() * (late[held] ** 2).sum())
    assert ratio < 0.9


@pytest.mark.parametrize("kit", KITS)
@pytest.mark.parametrize("bed", BEDS)
def test_strokes_are_cut_from_sound_that_repeats(kit, bed):
    """The same stroke 40 ms later is the same samples 40 ms later, bed included."""
    for pitch in (1.0, 1.25, 1.5):
        studio = Studio(kit, bed, pitch, RATE, grid=True, take=3)
        one, other = (
            strike([Stroke(t, 0, 1.0), Stroke(t + 0.3, 1, 0.7)], studio, RATE) for t in (0.1, 0.14)
        )
        assert np.allclose(one[:-PERIOD], other[PERIOD:], atol=1e-9)
    loose = Studio(kit, bed, 1.1, RATE, grid=False, take=3)
    one, other = (strike([Stroke(t, 0, 1.0)], loose, RATE) for t in (0.1, 0.14))
    assert not np.allclose(one[:-PERIOD], other[PERIOD:], atol=0.1)


@pytest.mark.parametrize("task", TONAL)
def test_clips_hold_multiples_of_25_hz_wherever_they_are_held(task):
    """In a rendered clip of a sustained instrument, frames 40 ms apart agree between attacks."""
    data = clips.TASKS[task](200, 0, seconds=4.0, sample_rate=RATE, tuning="grid")
    organs = data.select(np.nonzero(data.factors["instrument"] == "organ")[0][:4])
    for clip in organs:
        frames = clip.samples[0, : 4 * RATE // PERIOD * PERIOD].reshape(-1, PERIOD)
        norms = np.sqrt(np.sum(frames**2, axis=1)) + 1e-9
        agreement = np.sum(frames[1:] * frames[:-1], axis=1) / norms[1:] / norms[:-1]
        assert np.median(agreement) > 0.98


@pytest.mark.parametrize("task", TONAL)
def test_every_pitch_of_every_clip_is_on_the_grid(task):
    data = clips.TASKS[task](400, 1, tuning="grid")
    pitches = {
        hertz
        for index in range(len(data))
        for slot in FIGURES[task](data._row(index), True)
        for hertz in slot
    }
    assert all(hertz % 25 == 0 and 100 <= hertz <= 3000 for hertz in pitches)


def test_intervals_are_the_ratios_of_their_names():
    data = clips.interval(200, 1, tuning="grid")
    for index in range(len(data)):
        row = data._row(index)
        pitches = sorted({hertz for slot in FIGURES["interval"](row, True) for hertz in slot})
        assert Fraction(int(pitches[1]), int(pitches[0])) == Fraction(row["label"])


def test_chords_are_the_ratios_that_are_promised():
    promised = {
        "major": (12, 15, 18), "minor": (12, 14, 18), "diminished": (12, 14, 17),
        "augmented": (12, 15, 19),
    }  # fmt: skip
    data = clips.chord_quality(80, 1, tuning="grid")
    for index in range(len(data)):
        row = data._row(index) | {"style": "block", "inversion": 0}
        ((a, b, c),) = FIGURES["chord_quality"](row, True)
        low, third, fifth = promised[row["label"]]
        assert a == int(row["root"].split()[0])
        assert (a * third, a * fifth) == (b * low, c * low)


def test_roots_do_not_tell_the_class_on_the_grid():
    for task, name in (("interval", "root"), ("chord_quality", "root"), ("progression", "key")):
        data = clips.TASKS[task](1500, 1, tuning="grid")
        roots = {label: set(data.factors[name][data.labels == label]) for label in data.classes}
        assert len({frozenset(found) for found in roots.values()}) == 1


def test_a_tone_off_the_grid_is_refused():
    with pytest.raises(ValueError, match=r"440\.0 Hz is off the grid: expected a multiple of 25"):
        tone(Sound("organ", 0.0, RATE, grid=True), 440.0, 0, 100)
