"""Probes: planted labels are found and nothing else is, nothing leaks, controls stand beside."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from audio_lens import InputError
from audio_lens.analysis.probes import STRENGTHS, Probe
from audio_lens.audio.splits import SPLITS, split_by


def planted(n=600, width=12, *, size=2.0, seed=0, n_classes=2):
    """Activations of unequal scale in which a class moves along a direction of its own."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    moved = np.linalg.qr(rng.standard_normal((width, n_classes)))[0].T
    x = rng.standard_normal((n, width)) + size * moved[y]
    return torch.from_numpy(x).float(), y, moved


def cosine(a, b) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


@pytest.mark.parametrize("kind", ["logistic", "mass_mean"])
def test_a_planted_direction_is_recovered(kind) -> None:
    x, y, moved = planted(n=20_000)
    probe = Probe.fit(x, np.array(["slow", "fast"])[y], kind=kind)
    assert probe.classes == ("fast", "slow")
    true = torch.from_numpy(moved[0] - moved[1]).float()  # towards "slow", which is class 0 here
    assert cosine(probe.direction.layer(0), true) > 0.99
    assert cosine(probe.direction_of("fast").layer(0), -true) > 0.99
    ideal = 0.5 * (1 + torch.erf(torch.tensor(2**0.5 / 2**0.5)))  # of two Gaussians 2*sqrt(2) apart
    assert probe.score.value == pytest.approx(float(ideal), abs=0.02)
    assert probe.selectivity > 0.3


def test_a_graded_direction_is_recovered_with_its_scale() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5000, 6)) * np.array([1, 10, 1, 1, 0.1, 1])
    w = np.array([1.0, 0.2, 0.0, -1.0, 5.0, 0.0])
    bpm = 100 + x @ w + 0.5 * rng.standard_normal(5000)
    probe = Probe.fit(torch.from_numpy(x).float(), bpm)
    assert probe.kind == "ridge"
    assert torch.allclose(probe.direction.layer(0), torch.from_numpy(w).float(), atol=0.2)
    explained = 1 - 0.25 / bpm.var()
    assert probe.score.low < explained < probe.score.high
    assert probe.baselines["mean"].value == pytest.approx(0, abs=0.03)
    assert probe.baselines["shuffled"].value < 0.03
    guessed = probe.predict(torch.from_numpy(x[:4]).float())
    assert guessed == pytest.approx(bpm[:4], abs=2)


def test_every_class_has_a_direction() -> None:
    x, y, moved = planted(n=6000, n_classes=4, size=4.0)
    names = np.array(["organ", "piano", "flute", "cello"])
    probe = Probe.fit(x, names[y])
    true = torch.from_numpy(moved[1] - moved[[0, 2, 3]].mean(0)).float()
    assert cosine(probe.direction_of("piano").layer(0), true) > 0.98
    assert probe.baselines["chance"].value == 0.25
    with pytest.raises(InputError, match=r"direction_of\(name\)"):
        _ = probe.direction
    with pytest.raises(InputError, match="no class 'drum'"):
        probe.direction_of("drum")


def test_fits_are_those_of_a_scikit_learn_pipeline() -> None:
    x, y, _ = planted(seed=3)
    x = x * torch.logspace(-2, 2, 12)
    split = split_by(np.arange(len(y)))
    train = split == "train"
    probe = Probe.fit(x, y, split=split, strengths=[0.1])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(x[train].numpy(), y[train])
    theirs = model.decision_function(x.numpy())
    assert probe.read(x)[:, 0].numpy() == pytest.approx(theirs, abs=1e-4)
    assert probe.score.value == np.mean(
        model.predict(x[split == "test"].numpy()) == y[split == "test"]
    )


@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_heads_fitted_together_are_those_fitted_alone(n_classes) -> None:
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.standard_normal((300, 4, 5)) * [[[1], [5], [0.2], [1]]]).float()
    y = rng.standard_normal(300) if n_classes == 0 else np.arange(300) % n_classes
    x[:, 2, 1] += 0.3 * torch.from_numpy(y).float()
    together = Probe.fit_parts(x, y, strengths=[0.1, 1.0], shuffles=3)
    assert len(together) == 4
    for head, probe in enumerate(together):
        rows, train = x[:, head].double().numpy(), split_by(np.arange(300)) == "train"
        if n_classes == 0:
            model = Ridge(alpha=1 / probe.strength)
        else:
            model = LogisticRegression(C=probe.strength, max_iter=5000, tol=1e-10)
        scale = StandardScaler().fit(rows[train])
        for output in range(1 if n_classes in (0, 2) else n_classes):
            target = y if n_classes == 0 else y == (1 if n_classes == 2 else output)
            fitted = model.fit(scale.transform(rows[train]), target[train])
            ask = fitted.predict if n_classes == 0 else fitted.decision_function
            theirs = ask(scale.transform(rows))
            assert probe.read(x[:, head])[:, output].numpy() == pytest.approx(theirs, abs=1e-3)
    best = max(together, key=lambda probe: probe.score.value)
    assert best.made["head"] == 2
    if n_classes == 0:
        vector = best.direction.layer(0)
        assert vector.shape == (4, 5)
        assert vector[2].abs().max() > 0
        assert vector[[0, 1, 3]].abs().max() == 0


def test_noise_scores_as_shuffled_labels_do_and_intervals_cover() -> None:
    """Nothing is planted, so the truth is chance: nineteen intervals in twenty should hold it."""
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = torch.from_numpy(rng.standard_normal((250, 4))).float()
        probe = Probe.fit(x, np.arange(250) % 2, shuffles=2, seed=seed, strengths=[0.1])
        held += probe.score.low <= 0.5 <= probe.score.high
    assert held >= 51  # fewer than that has a chance of 0.3 % if the coverage is 95 %
    shuffled = Probe.fit(x, np.arange(250) % 2, shuffles=200, strengths=[0.1]).baselines["shuffled"]
    assert shuffled.low < 0.5 < shuffled.high
    assert shuffled.value == pytest.approx(0.5, abs=0.05)


def test_a_score_of_a_single_group_has_no_interval() -> None:
    x = torch.arange(60.0)[:, None] % 2
    split = np.repeat(["train", "validation", "test"], 20)
    probe = Probe.fit(x, np.arange(60) % 2, split=split, groups=split)
    assert probe.score.value == 1
    assert np.isnan([probe.score.low, probe.score.high]).all()


def test_labels_of_whole_groups_are_shuffled_by_group() -> None:
    """Groups have looks of their own and labels by lot: real and shuffled must score alike."""
    outside = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        clip = np.repeat(np.arange(40), 20)
        label = rng.permutation(np.arange(40) % 2)[clip]
        x = torch.from_numpy(rng.standard_normal((40, 16))[clip]).float() * 0.3
        x = x + torch.from_numpy(rng.standard_normal((len(clip), 16))).float()
        probe = Probe.fit(x, label, groups=clip, shuffles=30, seed=seed, strengths=[0.01])
        band = probe.baselines["shuffled"]
        outside += not band.low <= probe.score.value <= band.high
    assert outside <= 3  # two in thirty-one are expected to be


def test_guesses_are_the_labels_as_they_were_given() -> None:
    x, y, _ = planted(n=300, size=6.0)
    for labels in (y, y.astype(bool), np.array(["a", "b"])[y]):
        probe = Probe.fit(x, labels)
        assert np.mean(probe.predict(x) == labels) > 0.95


def test_test_clips_touch_neither_scaler_nor_weights_nor_choice() -> None:
    x, y, _ = planted(size=0.6)
    split = split_by(np.arange(len(y)))
    probe = Probe.fit(x, y, split=split)
    other = x.clone()
    other[torch.from_numpy(split == "test")] *= 100
    again = Probe.fit(other, y, split=split)
    assert torch.equal(again.direction.layer(0), probe.direction.layer(0))
    assert again.strength == probe.strength


def test_frames_of_a_clip_stay_together() -> None:
    """Each clip has a look of its own. Split by frame, a probe learns the clips and scores high;
    split by clip, it has nothing to go by.
    """
    rng = np.random.default_rng(0)
    clip = np.repeat(np.arange(60), 20)
    label = rng.integers(0, 2, 60)[clip]
    x = torch.from_numpy(rng.standard_normal((60, 64))[clip]).float()
    x = x + 0.1 * torch.from_numpy(rng.standard_normal(x.shape)).float()
    leaking = Probe.fit(x, label, strengths=[1.0])
    honest = Probe.fit(x, label, groups=clip, strengths=[1.0])
    assert leaking.score.value > 0.95
    assert honest.score.low < 0.5 < honest.score.high
    split = split_by(clip)
    for name in SPLITS:
        assert not set(clip[split == name]) & set(clip[split != name])
    split[0] = "test" if split[0] != "test" else "train"
    with pytest.raises(InputError, match="group '0' is in the splits"):
        Probe.fit(x, label, groups=clip, split=split)


def test_a_small_mlp_finds_what_no_direction_holds() -> None:
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (900, 2))
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    rows = torch.from_numpy(x + 0.1 * rng.standard_normal(x.shape)).float()
    assert Probe.fit(rows, y).score.value < 0.8  # a line has at most three of four corners
    mlp = Probe.fit(rows, y, kind="mlp", strengths=[1.0], shuffles=1)
    assert mlp.score.value > 0.95
    with pytest.raises(InputError, match="'mlp' has no direction"):
        _ = mlp.direction


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels": np.zeros(40, int)}, "all labels are '0'"),
        ({"labels": np.zeros(40)}, "the same number"),
        ({"labels": np.arange(39) % 2}, "40 rows of activations and 39 labels"),
        ({"labels": np.full(40, np.nan)}, "label 0 is nan"),
        ({"x": torch.full((40, 3), torch.nan)}, "of 40 clips are not finite"),
        ({"kind": "svm"}, "kind must be one of logistic"),
        ({"kind": "ridge"}, "'ridge' is not for classes: take logistic"),
        ({"labels": np.arange(40.0), "kind": "logistic"}, "not for graded labels"),
        ({"shuffles": 0}, "without its control"),
        ({"strengths": []}, "give at least one"),
        ({"groups": np.arange(40) // 20}, "2 groups cannot be split"),
        ({"groups": [1, 2]}, "40 labels and 2 groups"),
        ({"split": ["train"] * 40}, "no clip is in the validation split"),
        ({"split": ["train"] * 39}, "39 entries for 40 clips"),
        ({"x": torch.randn(40)}, r"must be \[clip ...\], one row each, got \(40,\)"),
        ({"labels": ["a", "nan"] * 20}, "some labels are missing"),
        ({"labels": np.arange(40)}, "if the label is a quantity, give it as floats"),
        ({"split": ["fit"] * 40}, "splits are train, validation, test, got 'fit'"),
        ({"labels": ["rare"] + ["often"] * 39}, "has no clip of 'rare'"),
    ],
)
def test_bad_input_is_named(change, match, as_users_see_it) -> None:
    asked = {"x": torch.randn(40, 3), "labels": np.arange(40) % 2} | change
    with pytest.raises(InputError, match=match):
        Probe.fit(asked.pop("x"), asked.pop("labels"), **asked)


def test_strengths_are_chosen_where_they_pay() -> None:
    """Few clips in many dimensions: the strongest fit is the worst."""
    x, y, _ = planted(n=150, width=100, size=0.0)
    x[:, 0] += torch.from_numpy(1.0 * (2 * y - 1)).float()
    assert Probe.fit(x, y).strength < STRENGTHS[-1]


def test_a_small_mlp_reads_graded_labels_too() -> None:
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, that it could train longer
        probe = Probe.fit(x, (2 * x[:, 0]).numpy(), kind="mlp", strengths=(1.0,), shuffles=1)
    assert probe.classes is None
    assert probe.score.value > 0.5
