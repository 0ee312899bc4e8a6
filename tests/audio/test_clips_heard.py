"""Labelled clips as sound: labels are what is heard, by measures that do not know how it was made.

The tables of scales, chords and meters below are written down once more, on purpose.
"""

from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import find_peaks
from scipy.stats import spearmanr

from audio_lens.audio import clips
from audio_lens.audio._notes import TOP_SHARE, Sound, tone
from audio_lens.audio._timing import strokes
from audio_lens.audio.level import loudness, peak, rms
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import spectral_centroid
from audio_lens.audio.waveform import is_silent

RATE = 16000
NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MAJOR = {"I": 0, "II": 2, "III": 4, "IV": 5, "V": 7, "VI": 9, "VII": 11}
MINOR = {"I": 0, "II": 2, "III": 3, "IV": 5, "V": 7, "VI": 8, "VII": 10}
TRIADS = {(4, 3): "major", (3, 4): "minor", (3, 3): "diminished", (4, 4): "augmented"}
SCALES = {
    "2212221": "ionian",
    "2122212": "dorian",
    "1222122": "phrygian",
    "2221221": "lydian",
    "2212212": "mixolydian",
    "2122122": "aeolian",
    "1221222": "locrian",
}
#: Their fundamental is their strongest partial.
PLAIN = ("flute", "piano", "clarinet")


def _plain(data: clips.LabelledClips, n: int, **wanted: str) -> clips.LabelledClips:
    keep = np.isin(data.factors["instrument"], PLAIN)
    for name, value in wanted.items():
        keep &= data.factors[name] == value
    found = data.select(np.nonzero(keep)[0][:n])
    assert len(found) == n
    return found


def _strongest(wave: np.ndarray, rate: int, how_many: int) -> list[float]:
    """The strongest spectral peaks in Hz, low to high; peaks are 4 % apart at least."""
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 16 * len(wave)))
    hertz = np.fft.rfftfreq(16 * len(wave), 1 / rate)
    spectrum[hertz < 50] = 0
    found: list[float] = []
    for place in sorted(find_peaks(spectrum)[0], key=lambda p: -spectrum[p]):
        if all(abs(np.log2(hertz[place] / other)) > 0.055 for other in found):
            found.append(float(hertz[place]))
        if len(found) == how_many:
            break
    return sorted(found)


def _slots(data: clips.LabelledClips, index: int, n: int) -> list[np.ndarray]:
    """The sound of the first slots of a figure, without their attacks and releases."""
    clip, row = data[index], {name: v[index] for name, v in data.factors.items()}
    step = 60 / row["pace"]
    starts = [row["start"] + k * step for k in range(n)]
    wave = clip.samples[0]
    return [wave[round((t + 0.02) * RATE) : round((t + 0.9 * step) * RATE)] for t in starts]


def _semitones(high: float, low: float) -> float:
    return 12 * float(np.log2(high / low))


def _onset_gaps(wave: np.ndarray) -> np.ndarray:
    """Seconds between strokes, from jumps of the level in frames of 4 ms."""
    frames = wave[: len(wave) // 64 * 64].reshape(-1, 64)
    power = np.convolve(np.mean(frames**2, axis=1), np.full(4, 0.25), mode="same")
    decibels = 10 * np.log10(power + 1e-12)
    jumps = np.r_[np.zeros(6), decibels[6:] - decibels[:-6]]
    peaks, _ = find_peaks(jumps, height=4.0, distance=20)
    return np.diff(peaks) * 64 / RATE


@pytest.mark.parametrize("tuning", ["equal", "grid"])
def test_strokes_come_at_the_tempo_of_the_label(tuning):
    data = clips.tempo(30, 3, seconds=5.0, sample_rate=RATE, tuning=tuning)
    waves = data.render(progress=False)
    heard = np.array([60 / np.median(_onset_gaps(wave)) for wave in waves])
    assert np.mean(np.abs(heard / data.labels - 1) < 0.02) > 0.96


def test_the_packages_own_measure_hears_the_tempo():
    data = clips.tempo(300, 3, seconds=8.0, sample_rate=RATE)
    keep = (data.factors["kit"] == "drums") & (data.factors["accent"] == 1)
    keep &= (data.labels > 60) & (data.factors["pitch"] < 1.2)
    kicks = data.select(np.nonzero(keep)[0][:6])
    heard = [pulse_bpm(wave, RATE) for wave in kicks.render(progress=False)]
    assert np.allclose(heard, kicks.labels, rtol=0.01)


def test_meters_are_told_by_which_strokes_return():
    """Bars are counted in strokes by correlating the spectra of strokes with those a bar later."""
    bars = {"2/2": 4, "2/4": 2, "3/4": 3, "3/8": 3, "4/4": 4, "6/8": 6, "9/8": 9, "12/8": 12}
    data = clips.time_signature(160, 2, seconds=8.0, sample_rate=RATE)
    bells = data.select(np.nonzero(data.factors["kit"] == "bells")[0][:16])
    assert len(set(bells.labels)) >= 6
    hits = 0
    for index, wave in enumerate(bells.render(progress=False)):
        label, row = bells.labels[index], {n: v[index] for n, v in bells.factors.items()}
        step = 60 / row["pace"]
        first = (-row["phase"] * bars[label]) % 1 * step
        starts = np.arange(first, 8.0 - step, step)
        heard = [wave[round(t * RATE) : round(t * RATE) + 1600] for t in starts]
        spectra = np.array([np.abs(np.fft.rfft(s * np.hanning(1600)))[40:320] for s in heard])
        spectra -= spectra.mean(0)
        score = {}
        for lag in set(bars.values()):
            one, other = spectra[lag:].ravel(), spectra[:-lag].ravel()
            score[lag] = one @ other / np.sqrt((one @ one) * (other @ other))
        # Multiples of a bar return as well: the shortest that does is the bar.
        bar = min(lag for lag, value in score.items() if value > 0.9 * max(score.values()))
        hits += bar == bars[label]
    assert hits >= 15


@pytest.mark.parametrize(
    ("meter", "beats", "division"),
    [
        ("2/2", 2, 2), ("2/4", 2, 1), ("3/4", 3, 1), ("3/8", 1, 3), ("4/4", 4, 1), ("6/8", 2, 3),
        ("9/8", 3, 3), ("12/8", 4, 3),
    ],
)  # fmt: skip
def test_meters_have_the_beats_and_subdivisions_of_their_convention(meter, beats, division):
    row = {"label": meter, "pace": 300.0, "phase": 0.0, "take": 0}
    bar = [stroke.role for stroke in strokes("time_signature", row, 4.0)][: beats * division]
    rest = [2] * (division - 1)
    assert bar == [0, *rest, *[1, *rest] * (beats - 1)]


def test_meters_do_not_differ_in_their_rate_of_strokes():
    data = clips.time_signature(80, 4, seconds=4.0, sample_rate=RATE)
    assert abs(np.corrcoef(data.factors["pace"], data.labels == "2/4")[0, 1]) < 0.2
    assert (data.factors["pace"] * 4 / 60).min() > 19  # strokes in a clip: a bar of 12 for certain


def test_notes_have_the_pitch_class_of_the_label():
    data = _plain(clips.note(160, 0, seconds=1.5, sample_rate=RATE), 24)
    for index in range(24):
        (hertz,) = _strongest(_slots(data, index, 1)[0], RATE, 1)
        up = _semitones(hertz, 440.0) + 9
        assert abs(up - round(up)) < 0.1
        assert NAMES[round(up) % 12] == data.labels[index]
        assert 4 + round(up) // 12 == data.factors["octave"][index]


@pytest.mark.parametrize("style", ["up", "down"])
def test_intervals_have_the_size_of_the_label(style):
    data = _plain(clips.interval(240, 0, seconds=2.0, sample_rate=RATE), 14, style=style)
    for index in range(len(data)):
        one, other = (_strongest(s, RATE, 1)[0] for s in _slots(data, index, 2))
        size = _semitones(other, one) * (1 if style == "up" else -1)
        assert size == pytest.approx(int(data.labels[index]), abs=0.15)


def test_intervals_sound_together_too():
    data = clips.interval(400, 1, seconds=2.0, sample_rate=RATE)
    keep = (data.factors["instrument"] == "flute") & (data.factors["style"] == "together")
    data = data.select(np.nonzero(keep & (data.labels != "12"))[0][:8])
    for index in range(8):
        low, high = _strongest(_slots(data, index, 1)[0], RATE, 2)
        assert _semitones(high, low) == pytest.approx(int(data.labels[index]), abs=0.2)


def test_scales_are_the_mode_of_the_label():
    data = _plain(clips.scale(120, 0, seconds=3.5, sample_rate=RATE), 14)
    for index in range(len(data)):
        heard = [_strongest(s, RATE, 1)[0] for s in _slots(data, index, 8)]
        heard = heard if data.factors["style"][index] == "up" else heard[::-1]
        steps = [_semitones(b, a) for a, b in pairwise(heard)]
        assert np.allclose(steps, np.round(steps), atol=0.3)
        assert SCALES["".join(str(round(step)) for step in steps)] == data.labels[index]


def _triad(hertz: list[float]) -> tuple[int, str]:
    """Root (semitones above C) and quality of three pitches in any inversion."""
    classes = sorted({round(_semitones(one, 440.0) + 9) % 12 for one in hertz})
    for turn in range(3):
        a, b, c = classes[turn:] + classes[:turn]
        quality = TRIADS.get(((b - a) % 12, (c - b) % 12))
        if quality:
            return a, quality
    return -1, "none"


def test_broken_chords_have_the_quality_and_root_of_the_label():
    data = _plain(clips.chord_quality(160, 0, seconds=2.5, sample_rate=RATE), 16, style="broken")
    for index in range(len(data)):
        root, quality = _triad([_strongest(s, RATE, 1)[0] for s in _slots(data, index, 3)])
        assert quality == data.labels[index]
        assert quality == "augmented" or NAMES[root] == data.factors["root"][index]


def _numeral(name: str, tonic: int, *, minor: bool) -> tuple[int, str]:
    degree = name.rstrip("°")
    quality = "major" if degree.isupper() else "diminished" if name.endswith("°") else "minor"
    return (tonic + (MINOR if minor else MAJOR)[degree.upper()]) % 12, quality


def test_progressions_are_the_numerals_of_the_label():
    data = clips.progression(1900, 0, seconds=4.0, sample_rate=RATE)
    flutes = data.select(data.factors["instrument"] == "flute")
    flutes = flutes.select(np.unique(flutes.labels, return_index=True)[1])
    for index in range(19):  # one of each
        first, *chords = _slots(flutes, index, 5)
        tonic = round(_semitones(_strongest(first, RATE, 1)[0], 440.0) + 9) % 12
        assert NAMES[tonic] == flutes.factors["key"][index]
        names = str(flutes.labels[index]).split("-")
        minor = "i" in names
        heard = [_triad(_strongest(chord, RATE, 3)) for chord in chords]
        assert heard == [_numeral(name, tonic, minor=minor) for name in names]


def test_brightness_is_heard_and_so_is_level():
    data = clips.brightness(40, 0, seconds=3.0, sample_rate=RATE)
    heard = [spectral_centroid(wave, RATE) for wave in data.render(progress=False)]
    assert spearmanr(data.labels, heard).statistic > 0.8
    data = clips.level(30, 0, seconds=3.0, sample_rate=RATE)
    heard = [loudness(wave, RATE) for wave in data.render(progress=False)]
    assert np.allclose(heard, data.labels, atol=0.2)


def test_instruments_differ_where_nothing_else_does():
    """Twins that differ in the label alone have spectra further apart than other takes have."""
    data = clips.instrument(12, 1, seconds=2.0, sample_rate=RATE)
    same = data.select([0] * 12)
    row = {name: values.copy() for name, values in same.factors.items()}
    row["drums"][:] = False
    others = clips.LabelledClips(**{**vars(same), "factors": row, "labels": data.labels})
    waves = others.render(progress=False)
    spectra = np.log10(np.abs(np.fft.rfft(waves))[:, ::40] + 1e-3)
    apart = np.abs(spectra[:, None] - spectra[None]).mean(-1)
    assert apart[~np.eye(12, dtype=bool)].min() > 0.01


@pytest.mark.parametrize("task", clips.TASKS)
def test_clips_are_whole_level_and_not_clipped(task):
    data = clips.TASKS[task](20, 11, seconds=4.0, sample_rate=RATE)
    waves = data.render(progress=False)
    assert waves.shape == (20, 64000)
    assert waves.dtype == np.float32
    levels = data.labels if task == "level" else data.factors["level"]
    for wave, level in zip(waves, levels, strict=True):
        assert np.isfinite(wave).all()
        assert not is_silent(wave)
        assert peak(wave, RATE) < -1
        assert loudness(wave, RATE) == pytest.approx(level, abs=0.2)


def _told(features: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> float:
    """Accuracy of least squares on features of clips it was not fitted on, in ten folds."""
    features = (features - features.mean(0)) / features.std(0)
    features = np.c_[features, features**2, features.prod(1), np.ones(len(features))]
    wanted = (labels[:, None] == np.array(classes)).astype(float)
    right = []
    for fold in range(10):
        out = np.arange(len(labels)) % 10 == fold
        weights = np.linalg.lstsq(features[~out], wanted[~out], rcond=None)[0]
        right += list((features[out] @ weights).argmax(1) == wanted[out].argmax(1))
    return float(np.mean(right))


@pytest.mark.parametrize(
    "task",
    ["time_signature", "note", "interval", "scale", "chord_quality", "progression", "instrument"],
)
def test_loudness_and_power_do_not_tell_the_class(task):
    seconds = {"note": 2.0, "interval": 2.0, "chord_quality": 2.5, "instrument": 2.5}.get(task, 4.0)
    data = clips.TASKS[task](100, 2, seconds=seconds, sample_rate=RATE)
    waves = data.render(progress=False)
    features = np.array([[loudness(w, RATE), loudness(w, RATE) - rms(w, RATE)] for w in waves])
    chance = 1 / len(data.classes)
    error = np.sqrt(chance * (1 - chance) / len(data))
    assert _told(features, data.labels, data.classes) < chance + 3 * error


def test_loudness_and_power_do_not_tell_the_tempo():
    data = clips.tempo(100, 2, seconds=3.0, sample_rate=RATE)
    waves = data.render(progress=False)
    for measured in ([loudness(w, RATE) for w in waves], [rms(w, RATE) for w in waves]):
        assert abs(spearmanr(measured, data.labels).statistic) < 0.3
    gap = [loudness(w, RATE) - rms(w, RATE) for w in waves]
    assert abs(spearmanr(gap, data.labels).statistic) < 0.3


@pytest.mark.parametrize(("rate", "hertz"), [(16000, 1975.5), (32000, 3951.1), (32000, 65.4)])
def test_nothing_folds_back(rate, hertz):
    wave = tone(Sound("trumpet", 0.0, rate, grid=False), hertz, 0, 2 * rate)
    power = np.abs(np.fft.rfft(wave * np.blackman(len(wave)))) ** 2
    bins = np.fft.rfftfreq(len(wave), 1 / rate)
    near = np.abs(bins / hertz - np.round(bins / hertz)) * hertz < 4
    wanted = near & (bins > 0.5 * hertz) & (bins <= TOP_SHARE * rate + 4)
    assert power[~wanted].sum() < 1e-7 * power.sum()


def test_more_rate_gives_more_partials_and_the_same_note():
    notes = [clips.note(3, 0, seconds=1.0, sample_rate=rate)[1] for rate in (16000, 32000, 44100)]
    pitches = [_strongest(n.samples[0], n.sample_rate, 1)[0] for n in notes]
    assert np.allclose(pitches, pitches[0], rtol=1e-3)
    assert [n.seconds for n in notes] == [1.0] * 3
