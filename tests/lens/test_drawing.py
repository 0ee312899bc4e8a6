"""Codes are drawn from numbers alone: logits that became NaN are refused."""

import pytest
import torch

from audio_lens import Intervention, add
from audio_lens.errors import InputError


def _forbid_one(tensor, *, hook):
    tensor[..., 5] = float("-inf")


_TOO_MUCH = Intervention("blocks.1.hook_mlp_out", add(torch.full([64], 3e38)))


@pytest.mark.parametrize("do_sample", [True, False])
@pytest.mark.parametrize("what", ["too much", "-inf in both halves"])
def test_logits_that_become_nan_are_never_drawn_from(lens, what, do_sample):
    much, none = lens.intervene(_TOO_MUCH), lens.hooks([("hook_logits", _forbid_one)])
    settings = {"seconds": 0.1, "seed": 0, "do_sample": do_sample, "progress": False}
    with (
        pytest.raises(InputError, match="logits are NaN"),
        much if what == "too much" else none,
    ):
        lens.generate("organ", **settings)


def test_a_code_is_ruled_out_where_there_is_no_guidance(lens):
    with lens.hooks([("hook_logits", _forbid_one)]):
        clip = lens.generate("organ", seconds=0.4, guidance_scale=1.0, seed=0, progress=False)[0]
    assert not (clip.codes == 5).any()
