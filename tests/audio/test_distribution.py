"""Distances of sets: those of Gaussians are known in closed form."""

import numpy as np
import pytest
import torch

from audio_lens.audio.distribution import frechet_distance, kernel_distance
from audio_lens.errors import InputError

RNG = np.random.default_rng(0)


def exactly(mean, covariance, n: int = 400) -> np.ndarray:
    """Points whose sample mean and covariance are these to rounding."""
    points = RNG.standard_normal((n, len(mean)))
    points -= points.mean(axis=0)
    points = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points, rowvar=False))).T
    return points @ np.linalg.cholesky(covariance).T + mean


def test_frechet_of_gaussians_with_commuting_covariances():
    """Means apart by (3, 4) give 25; spreads of 2 and 5, 1 and 1 give (2 - 5)^2."""
    a = exactly([0, 0], np.diag([4.0, 1.0]))
    b = exactly([3, 4], np.diag([25.0, 1.0]))
    assert frechet_distance(a, b) == pytest.approx(25 + 9)
    assert frechet_distance(b, a) == pytest.approx(25 + 9)


def test_frechet_of_gaussians_with_turned_covariances():
    from scipy.linalg import sqrtm

    first, second = np.array([[2.0, 0.8], [0.8, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    truth = np.trace(first + second - 2 * sqrtm(first @ second).real)
    a, b = exactly([1, 1], first), exactly([1, 1], second)
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-6)


def test_frechet_is_defined_for_fewer_clips_than_features_and_biased_there():
    few, many = (frechet_distance(*RNG.standard_normal((2, n, 32))) for n in (8, 800))
    assert few > 10 * many > 0
    points = RNG.standard_normal((5, 9))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-6)


def test_kernel_distance_of_gaussians():
    """For N(0, s^2) against N(m, s^2) in d dimensions under a Gaussian kernel of width h."""
    d, s, h = 3, 1.5, 2.0
    mean = np.array([1.0, -1.0, 0.5])
    a = s * RNG.standard_normal((3000, d))
    b = s * RNG.standard_normal((3000, d)) + mean
    wide = h**2 + 2 * s**2
    truth = 2 * (h**2 / wide) ** (d / 2) * (1 - np.exp(-mean @ mean / (2 * wide)))
    assert kernel_distance(a, b, bandwidth=h) == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize("kernel", ["gaussian", "polynomial"])
def test_kernel_distance_is_unbiased_for_few_clips(kernel):
    equal = [kernel_distance(*RNG.standard_normal((2, 8, 4)), kernel=kernel) for _ in range(400)]
    assert abs(np.mean(equal)) < 4 * np.std(equal) / np.sqrt(len(equal))
    assert min(equal) < 0 < max(equal)


def test_polynomial_kernel_by_hand():
    a, b = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    between = (1 + 1 + 3**3 + 4**3) / 4
    assert kernel_distance(a, b, kernel="polynomial") == pytest.approx(1 + 7**3 - 2 * between)


def test_tensors_are_accepted():
    points = torch.randn(6, 3, requires_grad=True)
    assert frechet_distance(points, points + 2) == pytest.approx(12, rel=1e-4)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros(4), np.zeros((4, 1)), r"embeddings have shape \(4,\)"),
        (np.zeros((4, 1)), np.zeros((1, 1)), "at least two clips"),
        (np.zeros((4, 2)), np.zeros((4, 3)), "2 features against 3"),
        (np.full((4, 2), np.nan), np.zeros((4, 2)), "leave those clips out"),
    ],
)
def test_malformed_sets_are_refused(distance, a, b, message):
    with pytest.raises(InputError, match=message):
        distance(a, b)


def test_kernels_and_widths_that_do_not_exist(as_users_see_it):
    points = RNG.standard_normal((4, 2))
    with pytest.raises(InputError, match="'gaussian' or 'polynomial'"):
        kernel_distance(points, points, kernel="laplace")
    with pytest.raises(InputError, match="bandwidth=0"):
        kernel_distance(points, points, bandwidth=0)
    with pytest.raises(InputError, match="leave it out"):
        kernel_distance(points, points, kernel="polynomial", bandwidth=1.0)
    with pytest.raises(InputError, match="give a bandwidth"):
        kernel_distance(points, np.zeros((4, 2)))
