"""Random models at any shape and planted circuits, for our tests and for users' own."""

from audio_lens.testing.planted import Planted, planted_circuit
from audio_lens.testing.random import SHAPES, Shape, random_musicgen, random_twin

__all__ = ["SHAPES", "Planted", "Shape", "planted_circuit", "random_musicgen", "random_twin"]
