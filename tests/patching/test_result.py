"""Results: averages, intervals, files, tables, pictures."""

import numpy as np
import pytest
import torch

from audio_lens import PatchingResult
from audio_lens.errors import InputError


@pytest.fixture
def result() -> PatchingResult:
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(2, 3, 8, generator=generator)
    effects = torch.tensor([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]])[..., None]
    return PatchingResult(
        per_example=effects + noise,
        axes={"layer": ("0", "1"), "pos": ("0", "1", "2")},
        clean=torch.full((8,), 2.0),
        corrupted=torch.zeros(8),
        provenance={"metric": "log-probability", "unit": "nats", "frame_rate": 50, "site": ["z"]},
    )


def test_averages_and_recovery(result) -> None:
    assert torch.allclose(result.values, result.per_example.mean(-1))
    assert torch.allclose(result.recovery, result.values / 2)
    assert result.best() == {"layer": "1", "pos": "1"}
    assert "6 of 6 cells, batch of 8" in repr(result)


def test_interval_and_p_value_tell_effects_from_none(result) -> None:
    low, high = result.interval()
    assert low[1, 1] > 1.8
    assert high[1, 1] < 2.2
    p = result.p_values()
    assert p[1, 1] < 0.02
    assert p[0, 2] < 0.02
    assert p[0, 0] > 0.02


def test_select(result) -> None:
    assert torch.equal(result.select(layer=1).values, result.values[1])
    assert result.select(layer=1, pos="2").values.shape == ()
    with pytest.raises(InputError, match="no axis 'head'"):
        result.select(head=0)
    with pytest.raises(InputError, match="no layer 5: there are 0, 1"):
        result.select(layer=5)


def test_files_come_back(result, tmp_path) -> None:
    path = result.save(tmp_path / "a" / "map.safetensors")
    again = PatchingResult.load(path)
    assert torch.equal(again.per_example, result.per_example)
    assert dict(again.axes) == dict(result.axes)
    assert dict(again.provenance) == dict(result.provenance)
    with pytest.raises(InputError, match="no patching result"):
        PatchingResult.load(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("words")
    with pytest.raises(InputError, match="no patching result"):
        PatchingResult.load(tmp_path / "text.safetensors")


def test_table(result) -> None:
    table = result.to_dataframe()
    assert list(table.columns) == ["layer", "pos", "example", "value", "effect"]
    assert len(table) == 48
    row = table[(table.layer == "1") & (table.pos == "1") & (table.example == 3)]
    assert float(row.value.iloc[0]) == pytest.approx(float(result.per_example[1, 1, 3]))


def test_pictures_have_seconds_and_a_panel_per_site(result) -> None:
    figure = result.plot()
    panel, bar = figure.axes
    assert panel.get_xlabel() == "seconds"
    assert panel.get_ylabel() == "layer"
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0", "0.02", "0.04"]
    assert np.allclose(panel.images[0].get_array(), result.recovery)
    assert "recovery" in bar.get_ylabel()
    several = PatchingResult(
        per_example=torch.stack([result.per_example] * 2),
        axes={"site": ("attn_out", "mlp_out"), **result.axes},
        clean=result.clean,
        corrupted=result.corrupted,
    )
    assert [a.get_title() for a in several.plot(what="effect").axes[:2]] == ["attn_out", "mlp_out"]
    with pytest.raises(InputError, match="what must be one of"):
        result.plot(what="everything")


def test_shapes_must_fit() -> None:
    with pytest.raises(InputError, match="do not have the axes"):
        PatchingResult(torch.zeros(3, 2), {"layer": ("0",)}, torch.zeros(2), torch.zeros(2))


def test_examples_without_a_value_are_left_out(result) -> None:
    nan = float("nan")
    gaps = PatchingResult(
        per_example=torch.tensor([[1.0, nan, 1.2, 0.8, 1.1, 0.9, 1.0, 1.1], [nan] * 8]),
        axes={"layer": ("0", "1")},
        clean=torch.tensor([2.0, 9.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]),
        corrupted=torch.tensor([0.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
    )
    assert gaps.recovery[0] == pytest.approx(7.1 / 7 / 2)
    low, high = gaps.interval()
    assert 0.9 < low[0] < 1.01 < high[0] < 1.2
    assert gaps.p_values()[0] < 0.05
    for quantity in (gaps.values, gaps.recovery, low, high, gaps.p_values()):
        assert quantity[1].isnan()
    assert gaps.best() == {"layer": "0"}


def test_a_change_that_is_not_there_recovers_nothing() -> None:
    nan = float("nan")
    gaps = PatchingResult(
        torch.tensor([[1.0, nan]]), {"layer": ("0",)}, torch.tensor([2.0, 4.0]),
        torch.tensor([1.0, 3.0]),
    )  # fmt: skip
    assert gaps.recovery == 0


def test_one_example_has_no_interval() -> None:
    single = PatchingResult(
        torch.tensor([[1.0], [2.0]]), {"layer": ("0", "1")}, torch.ones(1), torch.zeros(1)
    )
    low, high = single.interval()
    assert low.isnan().all()
    assert high.isnan().all()
    assert single.p_values().isnan().all()


def test_a_picked_site_is_the_one_in_the_picture(tmp_path) -> None:
    found = PatchingResult(
        torch.rand(2, 3, 2), {"site": ("attn_out", "mlp_out"), "layer": ("0", "1", "2")},
        torch.ones(2), torch.zeros(2), {"site": ["attn_out", "mlp_out"]},
    ).select(site="mlp_out")  # fmt: skip
    assert found.plot().axes[0].get_title() == "mlp_out"
