"""The toy's clips do not depend on how many processes render them."""

import numpy as np

from audio_lens.audio.synthesis import draw, render
from audio_lens.toy._data import synthesise


def test_workers_do_not_change_the_clips():
    alone = synthesise(range(3), 1.0, 1)
    assert np.array_equal(alone, synthesise(range(3), 1.0, 2))
    assert np.array_equal(alone[2], render(draw(2), 1.0))
