"""Metrics against numbers worked out by hand, and against torch's own functions."""

import pytest
import torch

from audio_lens import metrics
from audio_lens.errors import InputError


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def codes() -> torch.Tensor:
    return torch.randint(7, (3, 4, 5), generator=torch.Generator().manual_seed(1))


def test_logprob_is_torchs_cross_entropy(logits, codes) -> None:
    for row in range(3):
        nats = torch.nn.functional.cross_entropy(logits[row].flatten(0, 1), codes[row].flatten())
        assert metrics.logprob(codes)(logits)[row] == pytest.approx(-float(nats), abs=1e-6)
    one = metrics.logprob(codes[:1])(logits)
    assert one[0] == metrics.logprob(codes)(logits)[0]


def test_codebooks_and_frames_can_be_picked(logits, codes) -> None:
    picked = metrics.logprob(codes, codebooks=[1, 3], frames=(2, None))(logits)
    by_hand = logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0][:, [1, 3], 2:]
    assert torch.allclose(picked, by_hand.mean((1, 2)))
    assert torch.equal(
        metrics.logprob(codes, codebooks=-1)(logits), metrics.logprob(codes, codebooks=3)(logits)
    )


def test_kl_is_torchs_and_zero_for_itself(logits) -> None:
    other = logits.roll(1, -1)
    wanted = torch.nn.functional.kl_div(
        other.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert torch.allclose(metrics.kl(logits)(other), wanted.mean((1, 2)), atol=1e-6)
    assert metrics.kl(logits)(logits).abs().max() < 1e-6


def test_logit_difference_and_probability(logits, codes) -> None:
    other = (codes + 1) % 7
    gap = metrics.logit_difference(codes, other)(logits)
    assert torch.allclose(gap, -metrics.logit_difference(other, codes)(logits))
    assert metrics.logit_difference(codes, codes)(logits).abs().max() == 0
    everything = metrics.probability(range(7))(logits)
    assert torch.allclose(everything, torch.ones(3))
    one = metrics.probability([2], codebooks=0, frames=(0, 1))(logits)
    assert torch.allclose(one, logits[:, 0, 0].softmax(-1)[:, 2])


def test_read_out_is_a_projection(model) -> None:
    """Onto the unit vector, over the music's positions; a prefix is left out."""
    codes = model.random_codes(frames=6, seed=1)
    direction = torch.randn(64, generator=torch.Generator().manual_seed(0))
    for site in ("resid_post", "ln1.normalized"):
        metric = metrics.read_out(direction, layer=1, site=site)
        logits, cache = model.run_with_cache("a slow organ", codes, names_filter=metric.sites)
        music = cache[site, 1][:, cache.layout.audio]
        assert metric(logits, cache)[0] == pytest.approx(
            float((music @ direction).mean() / direction.norm()), abs=1e-4
        )
    assert not metric.reads_logits
    with pytest.raises(InputError, match="count layers from 0"):
        metrics.read_out(direction, layer=-1)


@pytest.mark.parametrize(
    ("metric", "match"),
    [
        (lambda c: metrics.logprob(c[..., :3]), "do not belong to logits"),
        (lambda c: metrics.logprob(c.float()), "integer tensor"),
        (lambda c: metrics.logprob(c, codebooks=9), "codebooks 0 to 3"),
        (lambda c: metrics.logprob(c, frames=(3, 2)), r"frames=\(3, 2\)"),
        (lambda c: metrics.probability([9]), "must lie in"),
        (lambda c: metrics.kl(torch.zeros(1, 4, 2, 7)), "same length"),
    ],
)
def test_what_does_not_fit_is_named(logits, codes, as_users_see_it, metric, match) -> None:
    with pytest.raises(InputError, match=match):
        metric(codes)(logits)


def test_no_entries() -> None:
    with pytest.raises(InputError, match="entries are empty"):
        metrics.probability([])
