"""All measures at once: what is named is measured, and known twins differ where they should."""

import math

import numpy as np
import pytest

from audio_lens.audio.measures import MEASURES, compare, evaluate
from audio_lens.audio.synthesis import draw, render, with_labels
from audio_lens.audio.timbre import spectral_centroid
from audio_lens.errors import InputError

RATE = 16_000
PIECE = with_labels(draw(1), bpm=90.0, drums=True, hats=1, brightness=0.4, level=-27.0, template=5)
CLIP = render(PIECE, 8.0)


def test_every_measure_is_there_and_documented():
    found = evaluate(CLIP, RATE)
    assert list(found) == list(MEASURES)
    assert found["pulse_bpm"] == pytest.approx(90, rel=0.01)
    assert found["loudness"] == pytest.approx(-27, abs=0.1)
    assert found["spectral_centroid"] == spectral_centroid(CLIP, RATE)
    for name, measure in MEASURES.items():
        assert measure.__name__ == name
        assert ">>>" in measure.__doc__


def test_only_some_in_their_order():
    assert list(evaluate(CLIP, RATE, ("rms", "flatness"))) == ["rms", "flatness"]
    with pytest.raises(InputError, match="no measure 'mood': expected one of pulse_bpm"):
        evaluate(CLIP, RATE, ("mood",))


def test_a_window_hears_its_part_alone():
    joined = np.concatenate([np.zeros(4 * RATE), CLIP])
    inside = evaluate(joined, RATE, ("loudness", "spectral_centroid"), window=(4.0, None))
    assert inside["spectral_centroid"] == spectral_centroid(CLIP, RATE)
    assert evaluate(joined, RATE, ("rms",), window=(0, 4.0))["rms"] < -100
    twin = np.concatenate([CLIP[: 4 * RATE], CLIP])
    assert compare(joined, twin, RATE, window=(4.0, 12.0))["log_mel_distance"] == 0
    assert compare(joined, twin, RATE)["log_mel_distance"] > 1


def test_a_short_window_has_no_tempo():
    tempi = ("pulse_bpm", "beat_bpm", "density")
    assert all(value > 0 for value in evaluate(CLIP, RATE, tempi, window=(1.0, 7.5)).values())
    short = evaluate(CLIP, RATE, (*tempi, "onset_rate"), window=(1.0, 6.5))
    assert all(math.isnan(short[name]) for name in tempi)
    assert short["onset_rate"] > 0
    assert math.isnan(compare(CLIP, CLIP, RATE, window=(0, 5.0))["pulse_octaves"])


@pytest.mark.parametrize("window", [(4.0, 2.0), (-1.0, 2.0), (0.0, 9.0), (9.0, None), (1.0,)])
def test_windows_outside_the_clip_are_refused(window, as_users_see_it):
    with pytest.raises(InputError, match="inside the clip's 8 s"):
        evaluate(CLIP, RATE, window=window)


def test_silence_is_nan_but_for_level():
    found = evaluate(np.zeros(8 * RATE), RATE)
    known = {name for name, value in found.items() if not math.isnan(value)}
    assert known == {"loudness", "rms", "peak", "silent_fraction", "clipped_fraction"}


@pytest.mark.parametrize(
    ("labels", "changed", "by"),
    [
        ({"bpm": 135.0}, "pulse_octaves", np.log2(1.5)),
        ({"level": -24.0}, "loudness", 3.0),
    ],
)
def test_twins_differ_where_their_labels_do(labels, changed, by):
    found = compare(render(with_labels(PIECE, **labels), 8.0), CLIP, RATE)
    assert found[changed] == pytest.approx(by, abs=0.1)
    assert found["suspect"] == 0
    assert found["chroma_closeness"] > 0.7


def test_brighter_twins_are_brighter_in_every_way():
    found = compare(render(with_labels(PIECE, brightness=0.9), 8.0), CLIP, RATE)
    for name in ("centroid_semitones", "harmonic_semitones", "rolloff_semitones"):
        assert found[name] > 4
    assert found["pulse_octaves"] == pytest.approx(0, abs=0.01)


def test_a_melody_an_octave_up_raises_the_register():
    low, high = (with_labels(PIECE, instrument="flute", density=2.0, register=r) for r in (0, 1))
    found = compare(render(high, 8.0), render(low, 8.0), RATE)
    assert 6 < found["register_semitones"] < 15
    assert compare(CLIP, CLIP, RATE)["register_semitones"] == 0


def test_what_cannot_be_compared_is_nan():
    found = compare(np.zeros(8 * RATE), CLIP, RATE)
    assert found.pop("loudness") == -math.inf
    assert found.pop("suspect") == 0
    assert all(math.isnan(value) for value in found.values())
    tone = 0.1 * np.sin(np.arange(8 * RATE) / 10)
    assert math.isnan(compare(tone, CLIP, RATE)["onset_octaves"])  # no attacks at all
