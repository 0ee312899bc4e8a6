"""Ears of others without their weights: what they are given, what is made of their answers."""

import builtins
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audio_lens import Clip
from audio_lens.audio.learned import AXES, Audiobox, BeatThis
from audio_lens.errors import InputError
from audio_lens.recipes.concept import concept

RATE = 16_000
NOISE = np.random.default_rng(0).normal(0, 0.1, (2, 8 * RATE)).astype("float32")


class Metronome:
    """Hears a beat every so often, and remembers what it was given."""

    def __init__(self, every: float) -> None:
        self.every = every

    def __call__(self, wave, sample_rate):
        self.wave, self.rate = wave, sample_rate
        beats = np.arange(0.1, len(wave) / sample_rate, self.every)
        return beats, beats[::4]


def test_beats_become_a_tempo():
    tracker = Metronome(0.4)
    ear = BeatThis(tracker)
    assert ear(NOISE, RATE) == pytest.approx(150)
    assert tracker.rate == RATE
    assert np.allclose(tracker.wave, NOISE.mean(0), atol=1e-6)
    assert np.diff(ear.beat_times(NOISE, RATE)) == pytest.approx(0.4)


def test_no_tempo_in_silence_and_of_few_beats():
    assert np.isnan(BeatThis(Metronome(0.4))(np.zeros(8 * RATE), RATE))
    assert np.isnan(BeatThis(Metronome(2.5))(NOISE, RATE))


def test_a_concept_may_be_heard_by_it():
    ear = BeatThis(Metronome(0.5))
    heard = replace(concept("tempo"), heard="beat_this", own_measure=ear, needs_pulse=False)
    assert heard.measure(NOISE, RATE) == pytest.approx(120)


class Rater:
    """Rates by loudness, and leaves out rows or axes when told to."""

    def __init__(self, drop: int = 0, axes=AXES) -> None:
        self.drop, self.axes = drop, axes

    def forward(self, batch):
        rows = [
            {axis: float(one["path"].abs().mean()) * one["sample_rate"] for axis in self.axes}
            for one in batch
        ]
        return rows[self.drop :]


def test_clips_are_rated_in_order():
    clips = [Clip(torch.full((1, RATE), level), RATE) for level in (0.1, 0.2)]
    found = Audiobox(Rater()).rate(clips)
    assert list(found.columns) == list(AXES)
    assert found["PQ"].tolist() == pytest.approx([0.1 * RATE, 0.2 * RATE])


@pytest.mark.parametrize("rater", [Rater(drop=1), Rater(axes=("CE", "CU"))])
def test_ratings_that_do_not_belong_are_refused(rater):
    clips = [Clip(torch.zeros(1, RATE), RATE)] * 2
    with pytest.raises(InputError, match="rows for 2 clips"):
        Audiobox(rater).rate(clips)
    with pytest.raises(InputError, match="no clips to rate"):
        Audiobox(rater).rate([])


@pytest.mark.parametrize(
    ("ear", "package", "extra"),
    [(BeatThis, "beat_this", "beats"), (Audiobox, "audiobox_aesthetics", "aesthetics")],
)
def test_a_missing_package_says_how_to_get_it(ear, package, extra, monkeypatch):
    known = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith(package):
            raise ImportError(name)
        return known(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=rf"pip install 'audio-lens\[{extra}\]'"):
        ear.from_pretrained()


def test_a_package_that_does_not_load_says_why(monkeypatch):
    known = builtins.__import__

    def broken(name, *args, **kwargs):
        if name.startswith("beat_this"):
            raise OSError("Could not load this library: _torchaudio.so")
        return known(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(
        InputError, match=r"_torchaudio\.so.*torchaudio that was built for this torch"
    ):
        BeatThis.from_pretrained()


def _unreachable(*args, **kwargs):
    raise OSError("no network")


def test_weights_that_cannot_be_fetched_say_so(monkeypatch):
    tracker = SimpleNamespace(Audio2Beats=_unreachable)
    rater = SimpleNamespace(initialize_predictor=_unreachable)
    monkeypatch.setitem(sys.modules, "beat_this", SimpleNamespace(inference=tracker))
    monkeypatch.setitem(sys.modules, "beat_this.inference", tracker)
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics", SimpleNamespace(infer=rater))
    monkeypatch.setitem(sys.modules, "audiobox_aesthetics.infer", rater)
    with pytest.raises(InputError, match="give the path of a checkpoint"):
        BeatThis.from_pretrained()
    with pytest.raises(InputError, match="give checkpoint="):
        Audiobox.from_pretrained()
