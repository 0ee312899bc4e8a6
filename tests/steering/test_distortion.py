"""Distortion: zero where nothing is added, what plain forwards give elsewhere."""

import numpy as np
import pytest
import torch

from audio_lens import Direction, InputError
from audio_lens.steering.distortion import at_distortion, distortion

PROMPTS = ["slow piano", "fast drums", "organ"]
UP = Direction({("resid_post", 1): torch.randn(64, generator=torch.Generator().manual_seed(3))})
STRENGTHS = [-1.0, 0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def twins(lens):
    return lens.generate(PROMPTS, seconds=0.2, seed=1, progress=False)


@pytest.mark.parametrize("branch", ["both", "cond"])
def test_it_is_what_two_forwards_differ_by(lens, twins, branch) -> None:
    asked = {"direction": UP, "coefficients": STRENGTHS, "branch": branch}
    found = distortion(lens, twins, **asked)
    assert found.shape == (4, 3)
    assert found[1].max() == 0
    assert np.allclose(distortion(lens, twins, rows_at_once=2, **asked), found, atol=1e-6)
    for place, strength in enumerate(STRENGTHS):
        for row, clip in enumerate(twins):
            codes = clip.codes[None]
            with torch.no_grad():
                plain = lens(clip.prompt, codes, guidance_scale=3.0)
                with lens.steer(UP, coefficient=strength, branch=branch):
                    bent = lens(clip.prompt, codes, guidance_scale=3.0)
            p, q = (torch.distributions.Categorical(logits=x) for x in (bent, plain))
            expected = torch.distributions.kl_divergence(p, q).mean()
            assert found[place, row] == pytest.approx(float(expected), abs=1e-5)
    assert (found[3] > found[2]).all()


def test_one_half_and_guidance_change_it(lens, twins) -> None:
    def nats(**options):
        return distortion(lens, twins, direction=UP, coefficients=[0.5], **options).mean()

    assert nats(branch="cond") > 2 * nats(branch="both")  # it counts three times at the logits
    assert nats(branch="cond", guidance_scale=1.0) < nats(branch="cond")


def test_effects_are_read_between_coefficients() -> None:
    nats, effects = np.array([0.0, 0.2, 0.6]), np.array([0.0, 0.5, 0.7])
    assert at_distortion(nats, effects, 0.1) == pytest.approx(0.25)
    assert at_distortion(nats, effects, 0.4) == pytest.approx(0.6)
    assert np.isnan(at_distortion(nats, effects, 0.61))
    with pytest.raises(InputError, match="growing from 0 outwards"):
        at_distortion(nats[::-1], effects, 0.1)


@pytest.mark.families("mono")
def test_clips_that_do_not_serve_are_refused(lens, twins) -> None:
    from dataclasses import replace

    asked = {"direction": UP, "coefficients": [1.0]}
    with pytest.raises(InputError, match="with their codes"):
        distortion(lens, [replace(twins[0], codes=None)], **asked)
    with pytest.raises(InputError, match="with their codes"):
        distortion(lens, [], **asked)
    shorter = lens.generate("organ", seconds=0.1, progress=False)
    with pytest.raises(InputError, match="several lengths"):
        distortion(lens, [*twins, *shorter], **asked)
