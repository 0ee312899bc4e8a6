"""Erasure: no linear probe finds what was erased, and little else is changed."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression

from audio_lens import InputError
from audio_lens.analysis.collect import collect
from audio_lens.analysis.erasure import Eraser

KEY = ("resid_post", 1)


def planted(n=400, width=12, n_classes=3):
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    mixing = rng.standard_normal((width, width))
    x = (rng.standard_normal((n, width)) + 2 * np.eye(n_classes, width)[y]) @ mixing
    return torch.from_numpy(x).float(), y


def test_a_fresh_probe_learns_nothing_and_did_before() -> None:
    x, y = planted()
    erased = Eraser.fit({KEY: x}, y)(x, *KEY)
    probe = LogisticRegression(C=1.0, max_iter=5000)
    assert probe.fit(x.numpy(), y).score(x.numpy(), y) > 0.8
    assert np.abs(probe.fit(erased.numpy(), y).coef_).max() < 1e-3
    means = [erased[y == n].mean(0) for n in range(3)]
    assert torch.allclose(means[0], means[1], atol=1e-4)
    assert torch.allclose(means[0], means[2], atol=1e-4)
    assert torch.allclose(erased.mean(0), x.mean(0), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_maps_are_those_of_the_authors_package() -> None:
    from concept_erasure import LeaceEraser

    x, y = planted()
    z = torch.nn.functional.one_hot(torch.from_numpy(y)).double()
    theirs = LeaceEraser.fit(x.double(), z, shrinkage=False, svd_tol=1e-9)
    ours = Eraser.fit({KEY: x}, y)(x, *KEY)
    assert torch.allclose(ours, theirs(x.double()).float(), atol=1e-4)


def test_graded_labels_are_erased_too() -> None:
    x, _ = planted()
    bpm = (100 + 5 * x[:, 3] - x[:, 0]).numpy().astype(float)
    erased = Eraser.fit({KEY: x}, bpm)(x, *KEY).numpy()
    assert LinearRegression().fit(x.numpy(), bpm).score(x.numpy(), bpm) > 0.99
    assert LinearRegression().fit(erased, bpm).score(erased, bpm) < 1e-4


def test_erasing_twice_changes_nothing_and_the_change_is_of_low_rank() -> None:
    x, y = planted()
    eraser = Eraser.fit({KEY: x}, y)
    once = eraser(x, *KEY)
    assert torch.allclose(eraser(once, *KEY), once, atol=1e-4)
    assert torch.linalg.matrix_rank(x - once, rtol=1e-4) <= 2  # classes less one


def test_as_an_intervention_it_acts_at_its_site_while_the_model_runs(lens) -> None:
    codes = lens.random_codes(frames=10, batch=40, seed=0)
    labels = np.arange(40) % 2
    asked = {"codes": codes, "pool": "every_step", "progress": False}
    values = collect(lens, None, layers=[1], **asked)
    values.values[KEY][labels == 1, :, 7] += 4.0  # something to erase
    eraser = Eraser.fit(values, labels)
    plain = collect(lens, None, **asked)
    with lens.intervene(*eraser.interventions(branch="both")):
        under = collect(lens, None, **asked)
    wanted = eraser(plain.values[KEY], *KEY)
    assert torch.allclose(under.values[KEY], wanted, atol=1e-4)
    assert not torch.allclose(plain.values[KEY], wanted, atol=1e-2)
    before = ("resid_post", 0)
    assert torch.equal(under.values[before], plain.values[before])
    with lens.intervene(*eraser.interventions()):
        (clip,) = lens.generate("a song", seconds=0.1, progress=False)
    assert clip.interventions == ("erased at resid_post 1 x 1",)


@pytest.mark.parametrize(
    ("values", "labels", "match"),
    [
        (torch.randn(20, 4), np.zeros(20, int), "all labels are 0"),
        (torch.randn(20, 4), np.arange(19) % 2, "20 rows at resid_post 1 and 19 labels"),
        (torch.randn(20, 4), np.full(20, np.nan), "not finite"),
        (torch.full((20, 4), torch.nan), np.arange(20) % 2, "are not finite"),
        (torch.randn(20, 4), np.ones(20), "all labels are the same"),
        (torch.randn(20, 4), np.arange(20), "20 classes in 4 dimensions leave nothing standing"),
        (torch.randn(20, 4), np.ones((20, 2)), "one per clip"),
        (torch.randn(20, 3, 2, 4), np.arange(20) % 2, "has heads"),
    ],
)
def test_bad_input_is_named(values, labels, match, as_users_see_it) -> None:
    with pytest.raises(InputError, match=match):
        Eraser.fit({KEY: values}, labels)


@pytest.mark.families("mono")
def test_in_front_of_the_blocks_it_acts_too(lens) -> None:
    codes = lens.random_codes(frames=8, batch=12)
    gathered = collect(lens, None, site="embed", codes=codes, progress=False)
    labels = np.arange(12) % 2
    eraser = Eraser.fit(gathered, labels)
    with lens.intervene(*eraser.interventions()):
        after = collect(lens, None, site="resid_pre", layers=0, codes=codes, progress=False)
    plain = collect(lens, None, site="resid_pre", layers=0, codes=codes, progress=False)
    moved = after.values["resid_pre", 0] - plain.values["resid_pre", 0]
    means = eraser(gathered.values["embed", -1], "embed", -1) - gathered.values["embed", -1]
    assert moved.norm() > 0.01
    assert torch.allclose(moved, means, atol=1e-4)
