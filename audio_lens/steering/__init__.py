"""Steering: directions put to work, by strategy and scale, and swept over coefficients."""

from audio_lens.steering.strategies import place, steer
from audio_lens.steering.sweep import SweepRow, sweep

__all__ = ["SweepRow", "place", "steer", "sweep"]
