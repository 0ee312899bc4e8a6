"""Sweeps of probes: a label planted at a layer or head is read there, and not before."""

import numpy as np
import pytest
import torch

from audio_lens import InputError, Intervention, SiteError, add
from audio_lens.analysis.collect import collect
from audio_lens.analysis.probe_sweep import probe_sweep
from audio_lens.audio import clips
from audio_lens.audio.clip import Clip


@pytest.fixture(scope="module")
def data(lens):
    return clips.level(40, seed=0, seconds=1.0, sample_rate=lens.cfg.sample_rate)


UNEVEN = [Clip(torch.zeros(1, n * 16000), 16000) for n in (1, 2)]


class Marked:
    """Clips whose label is written into the model by hand while it hears them."""

    def __init__(self, lens, n=200):
        self.codes = lens.random_codes(frames=10, batch=n, seed=0)
        self.labels = np.arange(n) % 2
        parts = ["train", "train", "train", "validation", "test"]
        self.split = np.repeat(parts, n // 5)
        self.table = {"label": self.labels, "split": self.split}
        self.label = "mark"

    def __len__(self):
        return len(self.labels)

    def heard(self, lens, **asked):
        strength = torch.from_numpy(2.0 * self.labels - 1).float() * 5
        mark = Intervention(
            "resid_post", add(torch.randn(64, generator=torch.Generator().manual_seed(0))),
            layers=1, coefficient=strength,
        )  # fmt: skip
        with lens.intervene(mark):
            return collect(
                lens, None, codes=self.codes, rows_at_once=len(self), progress=False, **asked
            )


def test_a_planted_label_is_read_from_its_layer_on(lens) -> None:
    marked = Marked(lens)
    found = probe_sweep(lens, marked, activations=marked.heard(lens), shuffles=3, progress=False)
    scores = {layer: probe.score for layer, probe in found.curve("resid_post").items()}
    assert scores[1].value == scores[2].value == 1
    assert scores[0].low < 0.5 < scores[0].high
    assert found.best()[1] in (1, 2)
    table = found.to_dataframe()
    assert table["selectivity"][1] > 0.2
    assert table["chance"].tolist() == [0.5] * 3


def test_one_head_of_many_is_named(lens) -> None:
    marked = Marked(lens)
    values = collect(lens, None, site="attn.z", codes=marked.codes, progress=False)
    values.values["attn.z", 2][:, 3, 5] += torch.from_numpy(20.0 * marked.labels).float()
    found = probe_sweep(
        lens, marked, site="attn.z", by="head", activations=values, shuffles=3, progress=False
    )
    assert found.best() == ("attn.z", 2, 3)
    assert found.parts("attn.z").shape == (3, 4)
    picture = found.plot()
    assert picture.axes[0].get_xlabel() == "head"
    vector = found.probes["attn.z", 2, 3].direction.layer(2)
    assert vector[3].abs().min() > 0
    assert vector[:3].abs().max() == 0


@pytest.mark.families("mono")
def test_activations_gathered_before_are_chosen_from(lens) -> None:
    marked = Marked(lens)
    values = collect(lens, None, site=["resid_post", "attn.z"], codes=marked.codes, progress=False)
    asked = {"activations": values, "shuffles": 2, "progress": False}
    found = probe_sweep(lens, marked, site="resid_post", layers=[0, 2], **asked)
    assert list(found.probes) == [("resid_post", 0, None), ("resid_post", 2, None)]
    assert set(found.by_layer("resid_post")) == {0, 2}
    by_head = probe_sweep(lens, marked, site="attn.z", by="head", layers=1, **asked)
    assert [len(scores) for scores in by_head.by_layer("attn.z").values()] == [4]
    assert len(probe_sweep(lens, marked, **asked).probes) == 6
    with pytest.raises(InputError, match="asked for are mlp_out 0"):
        probe_sweep(lens, marked, site="mlp_out", **asked)


@pytest.mark.families("mono")
def test_the_best_place_is_chosen_without_its_own_test_score(lens) -> None:
    marked = Marked(lens)
    found = probe_sweep(lens, marked, activations=marked.heard(lens), shuffles=2, progress=False)
    best = max(found.probes, key=lambda place: found.probes[place].validation)
    assert found.best() == best
    assert found.to_dataframe()["validation"].max() == found.probes[best].validation
    steps = collect(lens, None, codes=marked.codes, pool="every_step", progress=False)
    with pytest.raises(InputError, match="pool them over time"):
        probe_sweep(lens, marked, activations=steps, progress=False)


def test_clips_are_heard_and_labels_chosen(lens, data) -> None:
    asked = {"layers": [0, 2], "shuffles": 2, "progress": False}
    found = probe_sweep(lens, data, **asked)
    assert list(found.probes) == [("resid_post", 0, None), ("resid_post", 2, None)]
    assert found.label == "loudness"
    probe = found.probes["resid_post", 0, None]
    assert probe.counts == {"train": 24, "validation": 8, "test": 8}
    assert probe.direction.provenance["codes"] == "encoded"
    factor = next(name for name, values in data.factors.items() if values.dtype.kind == "f")
    other = probe_sweep(lens, data, label=factor, **asked)
    assert other.label == factor
    figure = found.plot(beside={"another label": other})
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert shown == ["probe", "another label", "shuffled labels", "mean"]


def test_sounds_are_read_in_batches_as_one_by_one(lens, data) -> None:
    few = data.select(range(5))
    whole = collect(lens, None, audio=few, rows_at_once=2, progress=False)
    codes = lens.encode(list(few))
    known = collect(lens, None, codes=codes, progress=False)
    for key, values in known.values.items():
        assert torch.allclose(whole.values[key], values, atol=1e-5)
    told = collect(lens, "a slow organ", audio=few, progress=False)
    assert not torch.allclose(told.values["resid_post", 2], whole.values["resid_post", 2])


def test_pools_and_windows_are_what_they_say(lens) -> None:
    codes = lens.random_codes(frames=30, batch=2, seed=0)
    _, cache = lens.run_with_cache([None] * 2, codes, names_filter="resid_post")
    stream = cache["resid_post", 1][:, cache.layout.audio]
    full = range(max(lens.cfg.delays) + 1, 31)

    def pooled(pool, window=None):
        found = collect(lens, None, layers=1, codes=codes, pool=pool, window=window, progress=False)
        return found.values["resid_post", 1]

    every = stream[:, full.start : full.stop]
    assert torch.allclose(pooled("mean_steps"), every.mean(1), atol=1e-5)
    assert torch.allclose(pooled("max_steps"), every.amax(1), atol=1e-5)
    assert torch.allclose(pooled("every_step"), every, atol=1e-5)
    assert torch.allclose(pooled("last"), every[:, -1], atol=1e-5)
    part = stream[:, 10:20]
    assert torch.allclose(pooled("mean_steps", (0.2, 0.4)), part.mean(1), atol=1e-5)
    assert torch.allclose(pooled("every_step", (0.2, 0.4)), part, atol=1e-5)
    late = stream[:, 20 : full.stop]
    assert torch.allclose(pooled("max_steps", (0.4, None)), late.amax(1), atol=1e-5)


def test_sites_in_front_of_the_blocks_are_pooled_over_the_music(lens) -> None:
    """Wherever the position axis stands, and whether or not the tensor holds a prefix."""
    codes = lens.random_codes(frames=30, batch=2, seed=0)
    asked = {"site": ["embed.codebook", "embed", "pos_embed"], "codes": codes, "progress": False}
    found = collect(lens, ["a slow organ"] * 2, **asked).values
    full = slice(max(lens.cfg.delays) + 1, 31)
    tokens = lens.delay.apply(codes)
    each = [table[tokens[:, book]][:, full].mean(1).float() for book, table in enumerate(lens.W_E)]
    assert torch.allclose(found["embed.codebook", -1], torch.stack(each, 1), atol=1e-5)
    assert torch.allclose(found["embed", -1], sum(each), atol=1e-4)
    assert found["pos_embed", -1].shape == (2, lens.cfg.d_model)
    with pytest.raises(SiteError, match="cannot be pooled over time per layer"):
        collect(lens, None, **{**asked, "site": "ln_final.normalized"})


@pytest.mark.families("mono")
def test_a_label_in_one_codebook_is_found_there(lens) -> None:
    marked = Marked(lens)
    codes = marked.codes.clone()
    codes[:, 2] = torch.from_numpy(np.where(marked.labels, 5, 9))[:, None]
    values = collect(lens, None, site="embed.codebook", codes=codes, progress=False)
    found = probe_sweep(
        lens, marked, site="embed.codebook", by="codebook", activations=values, shuffles=3,
        progress=False,
    )  # fmt: skip
    scores = found.parts("embed.codebook")
    assert scores.shape == (1, 4)
    assert scores[0, 2] == 1
    assert max(scores[0, [0, 1, 3]]) < 0.9
    assert found.to_dataframe()["codebook"].tolist() == [0, 1, 2, 3]
    assert found.plot().axes[0].get_xlabel() == "codebook"


@pytest.mark.parametrize(
    ("asked", "error", "match"),
    [
        ({"label": "colour"}, InputError, "the clips have no 'colour': there are label"),
        ({"pool": "every_step"}, InputError, "many vectors per clip"),
        ({"by": "head"}, SiteError, "resid_post has no heads"),
        ({"by": "codebook", "site": "attn.z"}, SiteError, "attn.z has no codebooks"),
        ({"by": "layer"}, InputError, "by must be 'head' or 'codebook'"),
        ({"kind": "logistic"}, InputError, "not for graded labels"),
        (
            {"by": "head", "site": "attn.z", "kind": "mlp"},
            InputError,
            "all at once, by 'ridge' alone",
        ),
    ],
)
def test_bad_input_is_named(lens, data, asked, error, match, as_users_see_it) -> None:
    with pytest.raises(error, match=match):
        probe_sweep(lens, data, **({"progress": False} | asked))


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"audio": []}, "audio is empty"),
        ({"audio": "one.wav"}, r"give \[sound\] for a single one"),
        ({"audio": UNEVEN, "rows_at_once": 1}, "to one length"),
        ({"codes": torch.zeros(0, 4, 9, dtype=torch.long)}, "codes have no rows"),
        ({"audio": [1], "codes": torch.zeros(1, 4, 9, dtype=torch.long)}, "not both"),
        ({"window": (5.0, None), "seconds": 0.3}, r"holds none of the positions"),
        ({"window": 0.2, "seconds": 0.3}, "give from and to which second"),
        ({"window": (float("nan"), None), "seconds": 0.3}, "seconds count from the beginning"),
        ({"window": (0.0, 0.1), "pool": "first_step"}, "takes no window"),
        ({"window": (-0.1, None), "seconds": 0.3}, "seconds count from the beginning"),
    ],
)
def test_bad_gathering_is_named(lens, asked, match, as_users_see_it) -> None:
    with pytest.raises(InputError, match=match):
        collect(lens, "a song", progress=False, **asked)


@pytest.mark.families("mono")
def test_a_probes_direction_knows_where_it_came_from_and_can_be_steered_by(lens) -> None:
    marked = Marked(lens, n=20)
    gathered = collect(lens, None, site=["embed", "resid_post"], codes=marked.codes, progress=False)
    found = probe_sweep(lens, marked, activations=gathered, shuffles=1, seed=3, progress=False)
    for (site, layer, _), probe in found.probes.items():
        direction = probe.direction
        assert direction.typical_norms == {(site, layer): gathered.typical_norms[site, layer]}
        assert direction.provenance["probe_seed"] == 3
        assert direction.provenance["split"] == {"train": 12, "validation": 4, "test": 4}
        assert direction.provenance["torch"] == torch.__version__
        plain = collect(lens, None, site="resid_post", codes=marked.codes, progress=False)
        with lens.steer(direction, scale="resid_norm"):
            steered = collect(lens, None, site="resid_post", codes=marked.codes, progress=False)
        last = "resid_post", lens.cfg.n_layers - 1
        assert not torch.allclose(plain.values[last], steered.values[last], atol=1e-3)
