"""Moments and stored activations: what plain tensors give, in the memory of one batch."""

import json
from types import SimpleNamespace

import pytest
import torch

from audio_lens import InputError, SiteError
from audio_lens.analysis.collect import Gathering, collect
from audio_lens.analysis.moments import moments
from audio_lens.analysis.store import MANIFEST, Stored, store


@pytest.fixture(scope="module")
def codes(lens):
    return lens.random_codes(frames=8, batch=11, seed=0)


@pytest.mark.parametrize("rows_at_once", [1, 4, 11])
@pytest.mark.parametrize("site", ["resid_post", "attn.z"])
def test_moments_are_those_of_all_rows_at_once(lens, codes, site, rows_at_once) -> None:
    asked = {"codes": codes, "site": site, "progress": False}
    whole = collect(lens, None, **asked)
    found = moments(lens, None, covariance=True, rows_at_once=rows_at_once, **asked)
    assert found.count == 11
    for key, rows in whole.values.items():
        assert torch.allclose(found.means[key], rows.mean(0), atol=1e-5)
        assert torch.allclose(found.variances[key], rows.var(0), atol=1e-4, rtol=1e-3)
        covariance = torch.cov(rows.flatten(1).double().T).float()
        assert torch.allclose(found.covariances[key], covariance, atol=1e-4, rtol=1e-3)
        assert found.typical_norms[key] == pytest.approx(whole.typical_norms[key], rel=1e-5)
    assert found.made == whole.made
    assert found.made["rows"] == 11
    other = moments(lens, None, **{**asked, "codes": codes.flip(0)})
    assert other.made["codes_sha256"] != found.made["codes_sha256"]


def test_every_step_counts_where_nothing_was_pooled(lens, codes) -> None:
    asked = {"codes": codes, "layers": 1, "pool": "every_step", "progress": False}
    rows = collect(lens, None, **asked).values["resid_post", 1]
    found = moments(lens, None, rows_at_once=3, **asked)
    assert found.count == rows.shape[0] * rows.shape[1]
    assert torch.allclose(found.means["resid_post", 1], rows.mean((0, 1)), atol=1e-5)
    assert found.covariances == {}


def test_stored_activations_are_read_back(lens, codes, tmp_path, capsys) -> None:
    asked = {"codes": codes, "site": ["resid_post", "attn.z"], "layers": [0, 2]}
    stored = store(lens, None, tmp_path / "deep" / "set", rows_at_once=4, **asked)
    assert "will take about 0.00 GiB" in capsys.readouterr().err
    whole = collect(lens, None, progress=False, **asked)
    again = Stored.open(tmp_path / "deep" / "set")
    assert again.n_rows == 11
    assert len(again.shards) == 3
    for key, rows in whole.values.items():
        assert torch.allclose(again[key], rows, atol=1e-6)
        assert [len(part) for part in stored.batches(key)] == [4, 4, 3]
    assert again.made["codes"] == "given"
    quiet = store(lens, None, tmp_path / "quiet", rows_at_once=4, progress=False, **asked)
    assert len(set(quiet.shards)) == 3
    for key, rows in whole.values.items():
        assert torch.allclose(quiet[key], rows, atol=1e-6)


def test_folders_that_hold_something_else(lens, codes, tmp_path) -> None:
    with pytest.raises(InputError, match="it holds no stored activations"):
        Stored.open(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(InputError, match="holds something already"):
        store(lens, None, tmp_path, codes=codes, progress=False)
    with pytest.raises(InputError, match="has the format None"):
        Stored.open(tmp_path)
    (tmp_path / MANIFEST).write_text("no")
    with pytest.raises(InputError, match="is no JSON"):
        Stored.open(tmp_path)
    stored = store(lens, None, tmp_path / "set", codes=codes, progress=False)
    with pytest.raises(InputError, match="was not stored: there are"):
        _ = stored["mlp_out", 1]
    (tmp_path / "set" / stored.shards[0]).unlink()
    with pytest.raises(InputError, match=f"lacks {stored.shards[0]}"):
        Stored.open(tmp_path / "set")
    manifest = json.loads((tmp_path / "set" / MANIFEST).read_text())
    assert manifest["rows"] == 11


@pytest.mark.parametrize("pool", ["mean_steps", "every_step"])
def test_the_size_is_known_before_anything_runs(lens, codes, pool) -> None:
    """For every site that can be gathered, from codes and from what is generated."""
    for site in lens.sites.shorthands:
        try:
            plan = Gathering(lens, None, site=site, pool=pool, codes=codes, progress=False)
        except SiteError:
            continue
        found = next(plan.batches())
        assert plan.n_bytes == sum(values.nbytes for values, _ in found.values())
    plan = Gathering(lens, ["organ"] * 3, pool=pool, seconds=0.2, progress=False)
    assert plan.n_bytes == sum(values.nbytes for values, _ in next(plan.batches()).values())


def test_a_disk_without_room_is_said_before_anything_runs(lens, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(InputError, match=r"and 0\.00 GiB are free: pool, or take fewer"):
        store(lens, ["organ"], tmp_path / "set", seconds=0.2, progress=False)
    assert not list((tmp_path / "set").iterdir())
