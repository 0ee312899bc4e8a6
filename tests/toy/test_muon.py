"""Muon: bit-equal to torch's own in bfloat16, and the same update, better rounded, in float32."""

import pytest
import torch
from torch import nn

from audio_lens.toy._muon import Muon, orthogonal

SHAPES = [(16, 16), (48, 16), (16, 48)]


def matrices(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def steps(optimizer: torch.optim.Optimizer, given: list[nn.Parameter], n: int = 3) -> None:
    for step in range(n):
        for matrix, gradient in zip(given, matrices(step + 1), strict=True):
            matrix.grad = gradient.detach()
        optimizer.step()


def test_in_bfloat16_it_is_torchs_own_bit_for_bit():
    own, theirs = matrices(), matrices()
    steps(Muon(own, 0.01, dtype=torch.bfloat16), own)
    steps(
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        theirs,
    )
    for mine, other, before in zip(own, theirs, matrices(), strict=True):
        assert torch.equal(mine, other)
        assert not torch.equal(mine, before)


def test_in_float32_it_does_the_same_but_for_rounding():
    rough, fine = matrices(), matrices()
    steps(Muon(rough, 0.01, dtype=torch.bfloat16), rough)
    steps(Muon(fine, 0.01, dtype=torch.float32), fine)
    for one, other, before in zip(rough, fine, matrices(), strict=True):
        moved = (other - before).norm()
        assert 0 < (one - other).norm() < 0.05 * moved  # bfloat16 has eight bits


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_keeps_singular_vectors_and_levels_the_values(shape):
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(1.0, 2.0, len(right))
    made = orthogonal(left @ values.diag() @ right, torch.float32)
    leveled = left.T @ made @ right.T
    assert (leveled - leveled.diagonal().diag()).abs().max() < 1e-4
    assert leveled.diagonal().min() > 0.6
    assert leveled.diagonal().max() < 1.3


def test_a_closure_makes_the_gradients():
    called, given = matrices(), matrices()

    def closure() -> float:
        loss = sum((matrix**3).sum() for matrix in called)
        loss.backward()
        return loss.item()

    loss = Muon(called, 0.01, dtype=torch.float32).step(closure)
    assert loss == pytest.approx(sum((matrix**3).sum().item() for matrix in given))
    for matrix in given:
        matrix.grad = 3 * matrix.detach() ** 2
    Muon(given, 0.01, dtype=torch.float32).step()
    for one, other, before in zip(called, given, matrices(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
        assert not torch.equal(one, before)


def test_a_matrix_without_a_gradient_stays():
    given = matrices()
    before = given[0].detach().clone()
    given[1].grad = torch.ones(SHAPES[1])
    Muon(given, 0.01, dtype=torch.float32).step()
    assert torch.equal(given[0], before)
    assert not torch.equal(given[1], matrices()[1])
