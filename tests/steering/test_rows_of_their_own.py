"""Rows of one batch, each steered by a direction of its own."""

import pytest
import torch

from audio_lens import Direction
from audio_lens.errors import InputError
from audio_lens.steering.steer import interventions_by_row

GENERATOR = torch.Generator().manual_seed(0)
UP = Direction({("resid_post", i): torch.randn(64, generator=GENERATOR) for i in range(3)})


def test_rows_have_directions_of_their_own(lens):
    other = UP.random_like(seed=1)
    rows = [(UP, 2.0), (other, -1.0), (UP, 0.0), (other, 3.0)]
    codes = lens.random_codes(batch=4, frames=4)
    with torch.no_grad():
        plain = lens("organ", codes)
        with lens.intervene(*interventions_by_row(lens, rows, strategy="all_to_all")):
            together = lens("organ", codes)
        for place, (direction, number) in enumerate(rows):
            with lens.steer(direction, coefficient=number, strategy="all_to_all"):
                alone = lens("organ", codes)
            assert torch.equal(together[place], alone[place])
            assert torch.equal(together[place], plain[place]) == (number == 0)


def test_a_row_says_only_what_is_done_to_it(lens):
    rows = [(UP, 2.0), (UP.random_like(seed=1), -1.0)]
    with lens.intervene(*interventions_by_row(lens, rows, source_layer=1)):
        clips = lens.generate(["organ", "drums"], seconds=0.1, progress=False)
    assert [clip.interventions for clip in clips] == [
        ("steered at resid_post layer 1, both, raw x 2",),
        ("steered at resid_post layer 1, both, raw x -1",),
    ]


def test_directions_of_other_layers_share_no_batch(lens):
    elsewhere = Direction({("resid_post", 1): torch.ones(64)})
    with pytest.raises(InputError, match="different sites or layers"):
        interventions_by_row(lens, [(UP, 1.0), (elsewhere, 1.0)], strategy="all_to_all")
