"""Many small linear probes at once, one for each head or codebook, as batched linear algebra.

The objectives are scikit-learn's (`LogisticRegression`, one class against the rest, and `Ridge`),
so that each probe is the one that `Probe.fit` would find.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from audio_lens.analysis._fitting import Fit, linear

_STEPS = 50
_SMALL = 1e-9


def fit_parts(
    x: Float[Tensor, "clip part feature"],
    y: Shaped[Tensor, " clip"],
    strength: float,
    n_classes: int,
) -> list[Fit]:
    """A linear probe per part: logistic for classes, ridge for graded labels (`n_classes=0`)."""
    rows = x.double().transpose(0, 1)
    mean, spread = rows.mean(1, keepdim=True), rows.std(1, keepdim=True, correction=0)
    spread[spread == 0] = 1
    rows = (rows - mean) / spread
    if n_classes == 0:
        targets = [y.double()]
    else:
        named = range(1, 2) if n_classes == 2 else range(n_classes)
        targets = [(y == n).double() for n in named]
    solve = _ridge if n_classes == 0 else _logistic
    solved = torch.stack([solve(rows, target, strength) for target in targets], dim=1)
    weights = solved[..., :-1] / spread
    bias = solved[..., -1] - (weights * mean).sum(-1)
    return [linear(w.numpy(), b.numpy(), n_classes) for w, b in zip(weights, bias, strict=True)]


def _ridge(
    rows: Float[Tensor, "part clip feature"], y: Float[Tensor, " clip"], strength: float
) -> Float[Tensor, "part weights_and_bias"]:
    centred = y - y.mean()
    gram = rows.transpose(1, 2) @ rows
    gram = gram + torch.eye(gram.shape[-1], dtype=gram.dtype) / strength
    weights = torch.linalg.solve(gram, rows.transpose(1, 2) @ centred)
    return torch.cat([weights, y.mean().expand(len(rows), 1)], dim=1)


def _logistic(
    rows: Float[Tensor, "part clip feature"], y: Float[Tensor, " clip"], strength: float
) -> Float[Tensor, "part weights_and_bias"]:
    """Newton's method, all parts in step; one whose step would go uphill takes a shorter one."""
    x = torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1)
    penalty = torch.ones(x.shape[-1], dtype=x.dtype)
    penalty[-1] = 0

    def loss(w: Float[Tensor, "part all"]) -> Float[Tensor, " part"]:
        scores = torch.einsum("hnd,hd->hn", x, w)
        wrong = torch.nn.functional.softplus(scores) - y * scores
        return strength * wrong.sum(1) + (penalty * w**2).sum(1) / 2

    w = x.new_zeros(len(x), x.shape[-1])
    for _ in range(_STEPS):
        p = torch.einsum("hnd,hd->hn", x, w).sigmoid()
        slope = strength * torch.einsum("hnd,hn->hd", x, p - y) + penalty * w
        curve = strength * (x.transpose(1, 2) * (p * (1 - p))[:, None]) @ x + penalty.diag()
        curve.diagonal(dim1=1, dim2=2).add_(_SMALL)
        step = torch.linalg.solve(curve, slope)
        before, share = loss(w), torch.ones(len(x), 1, dtype=x.dtype)
        for _ in range(20):
            uphill = loss(w - share * step) > before + _SMALL
            if not uphill.any():
                break
            share[uphill] /= 2
        w = w - share * step
        if (share * step).abs().max() < _SMALL:
            break
    return w
