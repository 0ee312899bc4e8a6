"""How probes are fitted: scikit-learn behind a scaler that saw the training clips only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

Rows = Float[np.ndarray, "clip feature"]
KINDS = ("logistic", "ridge", "mass_mean", "mlp")


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted probe as functions of activations."""

    outputs: Callable[[Rows], np.ndarray]
    """[clip output]: one output for two classes and for graded labels, else one per class."""
    predict: Callable[[Rows], np.ndarray]
    """Class numbers, or graded values."""
    weights: Float[np.ndarray, "output feature"] | None = None
    """In the space of the activations; None where the probe is not linear."""


Weights = Float[np.ndarray, "*draw clip"]
"""How often each clip counts."""


def accuracy(true: np.ndarray, guessed: np.ndarray, weights: Weights) -> Float[np.ndarray, "*draw"]:
    """Share of clips that are named right."""
    return np.asarray(weights @ (true == guessed) / weights.sum(-1))


def r_squared(
    true: np.ndarray, guessed: np.ndarray, weights: Weights
) -> Float[np.ndarray, "*draw"]:
    """Share of the variance explained; below 0 is worse than the clips' own mean.

    NaN where all clips that count are the same.
    """
    about = true - true.mean()  # so that squares do not cancel
    mean = weights @ about / weights.sum(-1)
    spread = weights @ about**2 - weights.sum(-1) * mean**2
    spread = np.where(spread > _NOTHING * (weights @ about**2), spread, np.nan)
    return np.asarray(1 - weights @ (true - guessed) ** 2 / spread)


_NOTHING = 1e-12


def fit_kind(
    kind: str, rows: Rows, y: np.ndarray, strength: float, n_classes: int, seed: int
) -> Fit:
    """Fit one kind of probe to training clips.

    n_classes: 0 for graded labels.
    """
    if kind == "mass_mean":
        return _mass_mean(rows, y, n_classes)
    mean, spread = rows.mean(0), rows.std(0)
    spread[spread == 0] = 1
    model = _estimator(kind, strength, n_classes, seed).fit((rows - mean) / spread, y)
    if kind == "mlp":
        return _opaque(model, mean, spread, n_classes)
    weights = np.atleast_2d(model.coef_) / spread
    bias = np.atleast_1d(model.intercept_) - weights @ mean
    return linear(weights, bias, n_classes)


def _estimator(kind: str, strength: float, n_classes: int, seed: int) -> Any:
    if kind == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=strength, max_iter=2000)
    if kind == "ridge":
        from sklearn.linear_model import Ridge

        return Ridge(alpha=1 / strength)
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    family = MLPClassifier if n_classes else MLPRegressor
    return family(hidden_layer_sizes=(64,), alpha=1e-4 / strength, max_iter=500, random_state=seed)


def linear(weights: np.ndarray, bias: np.ndarray, n_classes: int) -> Fit:
    """A fit from its weights, [output feature], in the space of the activations."""

    def outputs(rows: Rows) -> np.ndarray:
        return rows @ weights.T + bias

    def predict(rows: Rows) -> np.ndarray:
        found = outputs(rows)
        if n_classes == 0:
            return found[:, 0]
        return (found[:, 0] > 0).astype(int) if n_classes == 2 else found.argmax(1)

    return Fit(outputs, predict, weights)


def _mass_mean(rows: Rows, y: np.ndarray, n_classes: int) -> Fit:
    """Nearest class mean (Marks and Tegmark 2023, arXiv 2310.06824): no fit, no scaler."""
    means = np.stack([rows[y == n].mean(0) for n in range(n_classes)])
    bias = -0.5 * (means**2).sum(1)
    if n_classes == 2:
        means, bias = means[1:] - means[:1], bias[1:] - bias[:1]
    return linear(means, bias, n_classes)


def _opaque(model: Any, mean: np.ndarray, spread: np.ndarray, n_classes: int) -> Fit:
    def outputs(rows: Rows) -> np.ndarray:
        scaled = (rows - mean) / spread
        if n_classes == 0:
            return model.predict(scaled)[:, None]
        found = model.predict_proba(scaled)
        return found[:, 1:] if n_classes == 2 else found

    return Fit(outputs, lambda rows: model.predict((rows - mean) / spread))
