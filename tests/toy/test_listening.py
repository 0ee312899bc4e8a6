"""Listening lessons ask for the truth: the beat is where the kick is heard."""

import numpy as np
import torch

from audio_lens.audio.synthesis import SAMPLE_RATE, draw, render, with_labels
from audio_lens.toy._listening import FRAME_RATE, N_TARGETS, facts, listening_loss, targets


def test_phase_is_zero_where_kicks_attack():
    recipe = with_labels(draw(3), drums=True, template=5, bpm=90.0)
    frames = 300
    wanted = targets(facts([recipe]), torch.tensor([0]), frames)[0]
    wave = render(recipe, frames / FRAME_RATE)
    spectrum = np.fft.rfft(wave)
    spectrum[np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE) > 90] = 0
    power = (np.fft.irfft(spectrum) ** 2).reshape(frames, -1).mean(1)
    rise = np.maximum(np.diff(power, prepend=power[0]), 0)
    kicks = np.argsort(rise)[-6:]
    assert wanted[kicks, 0].min() > 0.5


def test_windows_continue_where_their_clip_stands():
    table = facts([draw(0), draw(1)])
    whole = targets(table, torch.tensor([0, 0]), 100)
    assert whole.shape == (2, 100, N_TARGETS)
    later = targets(table, torch.tensor([40, 40]), 60)
    assert torch.allclose(whole[:, 40:], later, atol=1e-4)


def test_tempo_and_brightness_span_minus_one_to_one():
    ends = [with_labels(draw(0), bpm=bpm, brightness=b) for bpm, b in ((60.0, 0.0), (160.0, 1.0))]
    table = facts(ends)
    assert torch.allclose(table[:, 2:4], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), atol=1e-5)


def test_clips_without_drums_are_not_asked_for_a_beat():
    heads = torch.nn.Linear(8, N_TARGETS)
    torch.nn.init.zeros_(heads.weight)
    torch.nn.init.zeros_(heads.bias)
    drumless = with_labels(draw(0), drums=False, template=10, brightness=0.5)
    states = torch.randn(1, 50, 8)
    silent = listening_loss(heads, states, facts([drumless]), torch.tensor([0]), 50)
    assert float(silent.detach()) == 0.0
    drummed = with_labels(drumless, drums=True, template=5)
    asked = listening_loss(heads, states, facts([drummed]), torch.tensor([0]), 50)
    assert float(asked.detach()) > 0.1
