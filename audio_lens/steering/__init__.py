"""Steering: directions put to work by strategy, scale and schedule; sweeps of coefficients."""

from audio_lens.steering.cross_talk import CrossTalk, cross_talk
from audio_lens.steering.monitor import fading, holding, monitor, until
from audio_lens.steering.steer import interventions, steer
from audio_lens.steering.strategies import place, soft_weights
from audio_lens.steering.sweep import SweepRow, sweep

__all__ = [
    "CrossTalk",
    "SweepRow",
    "cross_talk",
    "fading",
    "holding",
    "interventions",
    "monitor",
    "place",
    "soft_weights",
    "steer",
    "sweep",
    "until",
]
