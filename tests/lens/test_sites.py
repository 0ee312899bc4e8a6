"""The table against the design, and the self-check against models that it must fail."""

import pytest
import torch

from audio_lens.errors import SiteError
from audio_lens.testing import random_musicgen

STREAM = ("batch", "pos", "d_model")
HEADS = ("batch", "pos", "head", "d_head")
MLP = ("batch", "pos", "d_mlp")
FAMILIES = {
    "text.hook_out": ("batch", "token", "d_text"),
    "text.hook_proj": ("batch", "token", "d_model"),
    "embed.hook_codebook": ("batch", "codebook", "pos", "d_model"),
    "hook_embed": STREAM,
    "hook_pos_embed": STREAM,
    "blocks.{i}.hook_resid_pre": STREAM,
    "blocks.{i}.attn.hook_q": HEADS,
    "blocks.{i}.attn.hook_k": HEADS,
    "blocks.{i}.attn.hook_v": HEADS,
    "blocks.{i}.attn.hook_z": HEADS,
    "blocks.{i}.attn.hook_attn_scores": ("batch", "head", "query", "key"),
    "blocks.{i}.attn.hook_pattern": ("batch", "head", "query", "key"),
    "blocks.{i}.attn.hook_result": ("batch", "pos", "head", "d_model"),
    "blocks.{i}.hook_attn_out": STREAM,
    "blocks.{i}.hook_resid_mid": STREAM,
    "blocks.{i}.cross_attn.hook_q": HEADS,
    "blocks.{i}.cross_attn.hook_k": ("batch", "token", "head", "d_head"),
    "blocks.{i}.cross_attn.hook_v": ("batch", "token", "head", "d_head"),
    "blocks.{i}.cross_attn.hook_z": HEADS,
    "blocks.{i}.cross_attn.hook_attn_scores": ("batch", "head", "query", "token"),
    "blocks.{i}.cross_attn.hook_pattern": ("batch", "head", "query", "token"),
    "blocks.{i}.cross_attn.hook_result": ("batch", "pos", "head", "d_model"),
    "blocks.{i}.hook_cross_attn_out": STREAM,
    "blocks.{i}.hook_resid_mid2": STREAM,
    "blocks.{i}.mlp.hook_pre": MLP,
    "blocks.{i}.mlp.hook_post": MLP,
    "blocks.{i}.hook_mlp_out": STREAM,
    "blocks.{i}.hook_resid_post": STREAM,
    "hook_logits": ("batch", "codebook", "pos", "vocab"),
    **{
        f"{norm}.hook_{point}": axes
        for norm in ("blocks.{i}.ln1", "blocks.{i}.ln_cross", "blocks.{i}.ln2", "ln_final")
        for point, axes in (("scale", ("batch", "pos", "1")), ("normalized", STREAM))
    },
}
CROSS_ATTENDING = ("cross_attn", "ln_cross", "resid_mid2")
MELODY = {
    **{n: axes for n, axes in FAMILIES.items() if not any(w in n for w in CROSS_ATTENDING)},
    "embed.hook_codebook": ("batch", "codebook", "audio_pos", "d_model"),
    "melody.hook_proj": ("batch", "chroma", "d_model"),
}


def test_the_table_is_the_design(lens):
    design = MELODY if lens.cfg.chroma_length else FAMILIES
    assert {site.family: site.axes for site in lens.sites} == design
    layers = sum("{i}" in family for family in design)
    assert len(lens.sites) == layers * 3 + len(design) - layers
    read_only = {site.family for site in lens.sites if site.write == "no"}
    assert read_only == {family for family in design if family.endswith("scale")}


def test_ways_to_mean_sites(lens):
    sites = lens.sites
    assert [s.name for s in sites.resolve("attn.z")] == [
        f"blocks.{i}.attn.hook_z" for i in range(3)
    ]
    assert sites.resolve("resid_post", layers=-1) == (sites["blocks.2.hook_resid_post"],)
    assert sites.match("*.hook_resid_mi?") == [s for s in sites if s.shorthand == "resid_mid"]
    assert len(sites.resolve(["resid_pre", "blocks.0.*", lambda n: n.startswith("ln_final")])) > 20
    assert sites["hook_embed"].layer is None
    assert "blocks.1.hook_attn_out" in sites
    assert "blocks.{i}.attn.hook_z" in repr(sites)


def test_weights_are_views_in_transformer_lens_shapes(lens):
    model = lens.hf_model
    attention = model.decoder.model.decoder.layers[1].self_attn
    x = torch.randn(5, 64)
    for weight, projection in [(lens.W_Q, "q_proj"), (lens.W_K, "k_proj"), (lens.W_V, "v_proj")]:
        ours = torch.einsum("pm,hmd->phd", x, weight[1]).flatten(1)
        assert torch.allclose(ours, getattr(attention, projection)(x), atol=1e-5)
        assert weight[1].data_ptr() == getattr(attention, projection).weight.data_ptr()
    z = torch.randn(5, 4, 16)
    ours = torch.einsum("phd,hdm->pm", z, lens.W_O[1])
    assert torch.allclose(ours, attention.out_proj(z.flatten(1)), atol=1e-5)
    assert torch.allclose(x @ lens.W_U[2], model.decoder.lm_heads[2](x), atol=1e-5)
    assert [tuple(w[0].shape) for w in (lens.W_in, lens.W_out)] == [(64, 256), (256, 64)]
    assert lens.W_E[3].shape == (257, 64)
    if lens.cfg.chroma_length:
        with pytest.raises(SiteError, match="no cross-attention"):
            _ = lens.cross_W_K
    else:
        assert lens.cross_W_K[0].shape == (4, 64, 16)


def test_text_tokens(lens):
    assert lens.text_tokens("a b") == ["a", " ", "b", "</s>"]


@pytest.mark.parametrize(
    "shape",
    [
        {"n_layers": 1, "d_model": 32, "n_heads": 2},
        {"n_layers": 2, "d_model": 48, "n_heads": 3, "d_text": 48, "n_codebooks": 2},
        {"n_layers": 2, "d_model": 64, "n_heads": 8, "d_mlp": 96, "d_vocab": 100},
        {"n_layers": 2, "d_model": 48, "n_heads": 3, "d_text": 48, "melody": True},
        {"n_layers": 1, "audio_channels": 2, "n_codebooks": 8, "melody": True},
    ],
)
def test_the_self_check_passes_at_any_shape(shape):
    report = random_musicgen(**shape).check()
    assert report.ok, repr(report)
    assert all(site.effect is None or site.effect > 0 for site in report.sites)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("small", {}),
        ("medium", {"n_layers": 2}),
        ("stereo-melody", {"n_layers": 1}),
    ],
)
def test_the_self_check_passes_at_real_shapes(name, numbers):
    lens = random_musicgen(name, **numbers)
    report = lens.check()
    assert report.ok, report.failures
    assert len(report.sites) == len(lens.sites)


def test_the_self_check_finds_what_is_dead():
    lens = random_musicgen(n_layers=2)
    with torch.no_grad():  # an attention whose output is thrown away
        lens.hf_model.decoder.model.decoder.layers[1].self_attn.out_proj.weight.zero_()
    report = lens.check()
    assert not report.ok
    assert "blocks.1.attn.hook_z" in report.failures
    assert "blocks.1.attn.hook_pattern" in report.failures
    assert "blocks.1.hook_attn_out" not in report.failures
    assert "FAILED" in repr(report)


def test_the_self_check_finds_writes_that_vanish(monkeypatch):
    from audio_lens.lens import ports

    lens = random_musicgen(n_layers=1)
    monkeypatch.setattr(ports.Port, "get", lambda self, raw, captured: raw.clone())
    failures = lens.check().failures
    assert {"blocks.0.mlp.hook_pre", "blocks.0.hook_mlp_out", "text.hook_proj"} <= set(failures)


def test_the_same_seed_makes_the_same_model():
    a, b, c = (random_musicgen(n_layers=1, seed=s) for s in (1, 1, 2))
    codes = a.random_codes(frames=3)
    assert torch.equal(a("x", codes), b("x", codes))
    assert not torch.equal(a("x", codes), c("x", codes))
