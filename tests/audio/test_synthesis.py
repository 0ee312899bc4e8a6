"""Labelled clips: factors are independent draws, labels are heard, the frame grid is kept."""

from itertools import combinations

import numpy as np
import pytest
from scipy.signal import resample_poly
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from audio_lens.audio import words
from audio_lens.audio._score import score
from audio_lens.audio.level import loudness, rms
from audio_lens.audio.measures import evaluate
from audio_lens.audio.onsets import onset_envelope
from audio_lens.audio.synthesis import (
    BPM_RANGE,
    FAST_BPM,
    PERIOD,
    SAMPLE_RATE,
    SLOW_BPM,
    draw,
    render,
    with_labels,
)
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import semitones, spectral_centroid

FACTORS = (
    "bpm",
    "brightness",
    "density",
    "hats",
    "snare",
    "drums",
    "level",
    "key",
    "register",
    "phase",
)
NAMES = {
    "instrument": words.INSTRUMENTS + words.EXTRA_INSTRUMENTS,
    "genre": words.GENRES + words.EXTRA_GENRES,
}


@pytest.fixture(scope="module")
def recipes():
    return [draw(seed) for seed in range(2000)]


@pytest.fixture(scope="module")
def heard():
    """120 rendered clips of 5 s: the measures that factors may or may not move."""
    recipes = [draw(seed) for seed in range(5000, 5120)]
    waves = [render(recipe, 5.0) for recipe in recipes]
    measures = {"level": loudness, "centroid": spectral_centroid, "bpm": pulse_bpm}
    values = {n: np.array([f(w, SAMPLE_RATE) for w in waves]) for n, f in measures.items()}
    return recipes, values


def _values(recipes, factor):
    values = [getattr(recipe, factor) for recipe in recipes]
    return [NAMES[factor].index(v) for v in values] if factor in NAMES else values


def test_every_two_factors_are_independent(recipes):
    for one, other in combinations(FACTORS + tuple(NAMES), 2):
        rho = spearmanr(_values(recipes, one), _values(recipes, other)).statistic
        assert abs(rho) < 0.1, (one, other, rho)


#: What each measure is meant to hear, and what else is known to move it (docs/measuring.md).
MEANT = {
    "pulse_bpm": {"bpm"},
    "loudness": {"level"},
    "spectral_centroid": {"brightness", "register"},
    "onset_rate": {"bpm", "density", "hats", "drums", "genre"},
    "register": {"register", "brightness"},
}


def test_no_measure_is_moved_by_other_factors(recipes):
    heard = [evaluate(render(r, 6.0), SAMPLE_RATE, tuple(MEANT)) for r in recipes]
    drummed = np.array([r.drums for r in recipes])
    for name, meant in MEANT.items():
        values = np.array([each[name] for each in heard])
        known = np.isfinite(values) & (drummed if name == "pulse_bpm" else True)
        moved = {
            factor: spearmanr(np.array(_values(recipes, factor))[known], values[known]).statistic
            for factor in FACTORS + tuple(NAMES)
            if factor != "drums" or name != "pulse_bpm"  # of drumless clips there is no pulse
        }
        others = {factor: rho for factor, rho in moved.items() if factor not in meant}
        assert max(map(abs, others.values())) < 0.1, (name, others)
        assert max(abs(moved[factor]) for factor in meant) > 0.7, (name, moved)


def test_words_bind_their_factor_and_no_other(recipes):
    fast, slow = (
        [r for r in recipes if r.tempo_word in {p[pole] for p in words.TEMPO_PAIRS}]
        for pole in (0, 1)
    )
    assert all(FAST_BPM[0] <= r.bpm <= FAST_BPM[1] for r in fast)
    assert all(SLOW_BPM[0] <= r.bpm <= SLOW_BPM[1] for r in slow)
    bright, dark = (
        [r for r in recipes if r.timbre_word in {p[pole] for p in words.TIMBRE_PAIRS}]
        for pole in (0, 1)
    )
    assert min(r.brightness for r in bright) >= 5 / 6
    assert max(r.brightness for r in dark) <= 1 / 6
    unnamed = [r.bpm for r in recipes if r.tempo_word is None]
    assert min(unnamed) < 65
    assert max(unnamed) > 150
    for poles in ((fast, slow), (bright, dark)):
        for factor in ("density", "hats", "register", "level"):
            means = [np.mean(_values(pole, factor)) for pole in poles]
            spread = np.std(_values(recipes, factor))
            assert abs(means[0] - means[1]) < 0.2 * spread


def test_captions_come_in_quarters_and_tell_the_truth_about_drums(recipes):
    kinds = [(r.tempo_word is not None, r.timbre_word is not None) for r in recipes]
    for kind in set(kinds):
        assert kinds.count(kind) / len(kinds) == pytest.approx(0.25, abs=0.04)
    assert len(set(kinds)) == 4
    for recipe in recipes:
        denied = "no drums" in recipe.caption or "without drums" in recipe.caption
        assert denied == (not recipe.drums)
    assert np.mean([not r.drums for r in recipes]) == pytest.approx(0.1, abs=0.02)


def test_every_word_occurs_in_training(recipes):
    text = " ".join(recipe.caption.lower() for recipe in recipes).replace(",", "").split()
    assert set(words.vocabulary()) == set(text)


def test_tempo_and_level_are_what_the_label_says(heard):
    recipes, values = heard
    drummed = np.array([r.drums for r in recipes])
    bpm = np.array([r.bpm for r in recipes])
    assert np.mean(np.abs(values["bpm"] / bpm - 1)[drummed] < 0.04) >= 0.98
    assert np.allclose(values["level"], [r.level for r in recipes], atol=0.2)


def test_brightness_is_heard_over_all_other_factors(heard):
    recipes, values = heard
    assert spearmanr(_values(recipes, "brightness"), values["centroid"]).statistic > 0.85


@pytest.mark.parametrize(
    ("label", "least", "most"),
    [
        ({"brightness": 1.0}, 12.0, 48.0),
        ({"level": -25.0}, 0.0, 0.1),
        ({"bpm": 140.0}, 0.0, 3.0),
        ({"phase": 2.5}, 0.0, 2.0),
    ],
)
def test_how_far_each_factor_moves_the_centroid(label, least, most):
    """Semitones between twins that differ in one label, median over eight pieces."""
    base = {"brightness": 0.3, "bpm": 80.0, "level": -28.0, "phase": 0.0}
    shifts = []
    for seed in range(8):
        recipe = with_labels(draw(seed), **base)
        one, other = (
            spectral_centroid(render(r, 4.0), SAMPLE_RATE)
            for r in (recipe, with_labels(recipe, **label))
        )
        shifts.append(abs(semitones(other, one)))
    assert least <= np.median(shifts) <= most


@pytest.mark.parametrize("label", [{"brightness": 0.9}, {"level": -24.0}, {"register": 1}])
def test_twins_that_differ_elsewhere_keep_their_tempo(label):
    recipe = with_labels(draw(11), drums=True, template=5)
    other = with_labels(recipe, **label)
    bpm = [pulse_bpm(render(r, 8.0), SAMPLE_RATE) for r in (recipe, other)]
    assert bpm[0] == pytest.approx(bpm[1], rel=0.01)


def test_instrument_is_audible():
    """Nearest class mean over spectra at one brightness, against chance."""

    def features(recipe):
        wave = render(recipe, 4.0).astype(float)
        spectrum = np.abs(np.fft.rfft(wave)) ** 2
        edges = np.unique(np.geomspace(600, len(spectrum) - 1, 24).astype(int))
        bands = np.log(np.add.reduceat(spectrum, edges[:-1]) + 1e-9)
        return bands - bands.mean()

    instruments = NAMES["instrument"]
    fixed = {"brightness": 0.7, "genre": "pop", "template": 5, "hats": 0, "snare": False}
    table = {
        name: np.array([features(with_labels(draw(s), instrument=name, **fixed)) for s in range(8)])
        for name in instruments
    }
    means = {name: rows[:5].mean(0) for name, rows in table.items()}
    right = [
        min(means, key=lambda m: np.abs(means[m] - row).sum()) == name
        for name, rows in table.items()
        for row in rows[5:]
    ]
    assert np.mean(right) > 3 / len(instruments)


def test_genre_is_audible():
    """A classifier of onsets by their place in the beat, against chance; tempo is drawn."""

    def features(recipe):
        envelope, hop = onset_envelope(render(recipe, 8.0).astype(float), SAMPLE_RATE)
        envelope = envelope - envelope.mean()
        n = len(envelope)
        repeats = np.correlate(envelope, envelope, "full")[n - 1 :]
        lags = np.arange(1, 49) * 60 / recipe.bpm / 12 / hop
        return np.interp(lags, np.arange(n), repeats / repeats[0])

    genres = NAMES["genre"]
    fixed = {"template": 5, "drums": True, "hats": 0, "snare": False, "density": 0.5}
    rows = [(genre, n) for genre in genres for n in range(16)]
    table = np.array(
        [
            features(with_labels(draw(100 * genres.index(genre) + n), genre=genre, **fixed))
            for genre, n in rows
        ]
    )
    labels, test = np.array([genre for genre, _ in rows]), np.array([n >= 11 for _, n in rows])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    assert model.fit(table[~test], labels[~test]).score(table[test], labels[test]) > 3 / len(genres)


def test_a_held_sound_repeats_on_the_frame_grid():
    """Between attacks the waveform of a drumless clip repeats every 40 ms."""
    recipe = with_labels(
        draw(5), drums=False, genre="pop", density=0.5, instrument="organ", bpm=60.0, template=10
    )
    wave = render(recipe, 4.0).astype(float)
    blocks = wave.reshape(-1, PERIOD)
    change = np.sqrt(np.mean((blocks[1:] - blocks[:-1]) ** 2, axis=1))
    assert np.percentile(change, 25) < 1e-3 * np.sqrt(np.mean(blocks**2))


def test_rendering_is_reproducible_and_short_of_clipping():
    recipe = draw(42)
    wave = render(recipe, 2.0)
    assert wave.dtype == np.float32
    assert wave.shape == (2 * SAMPLE_RATE,)
    assert np.array_equal(wave, render(draw(42), 2.0))
    assert not np.array_equal(wave, render(draw(43), 2.0))
    assert np.abs(wave).max() <= 10 ** (-1 / 20)
    assert rms(wave, SAMPLE_RATE) > -50


@pytest.mark.parametrize(
    ("labels", "seconds", "message"),
    [
        ({}, 0.1, "seconds=0.1"),
        ({"bpm": 0.0}, 2.0, "bpm=0.0 is out of range"),
        ({"brightness": 1.5}, 2.0, "brightness=1.5 is out of range"),
        ({"instrument": "kazoo"}, 2.0, "no voice for 'kazoo'"),
        ({"genre": "techno"}, 2.0, "no pattern for 'techno'"),
    ],
)
def test_bad_recipes_are_named(labels, seconds, message):
    with pytest.raises(ValueError, match=message):
        render(with_labels(draw(0), **labels), seconds)


def test_the_range_of_tempo_is_the_published_one(recipes):
    bpm = [recipe.bpm for recipe in recipes]
    assert BPM_RANGE[0] <= min(bpm)
    assert max(bpm) <= BPM_RANGE[1]


def test_true_peaks_stay_below_the_ceiling():
    """At a level no clip can reach, so that every one of them is held down."""
    for seed in range(20, 28):
        wave = render(with_labels(draw(seed), level=-12.0), 2.0).astype(float)
        between = resample_poly(wave, 16, 1)
        assert -1.3 < 20 * np.log10(np.abs(between).max()) < -0.95


def test_the_kick_is_on_every_beat_and_nothing_low_is_off_it():
    for seed in range(60):
        recipe = with_labels(draw(seed), drums=True, template=5)
        beat, attacks = 60 / recipe.bpm, score(recipe, 8.0)
        low = np.array([a.time for a in attacks if 0 < a.hertz < 160])
        kicks = np.array([a.time for a in attacks if a.voice == "kick"])
        beats = np.arange(-(recipe.phase % 1), 8 / beat) * beat
        assert np.abs(kicks[:, None] - beats).min(0).max() <= 0.008
        off = (low / beat + recipe.phase % 1 + 0.5) % 1 - 0.5
        assert np.abs(off * beat).max() <= 0.008 + 1e-6, recipe
