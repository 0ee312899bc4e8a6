"""Random models at any shape and independent oracles, for our tests and for users' own."""

from audio_lens.testing.random import SHAPES, Shape, random_musicgen

__all__ = ["SHAPES", "Shape", "random_musicgen"]
