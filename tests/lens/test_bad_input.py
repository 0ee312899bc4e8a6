"""Bad input names the culprit, before work is lost, and leaves the lens clean."""

import re
from pathlib import Path

import pytest
import torch

from audio_lens import AudioLens, AudioLensError, Intervention, Prompt, add, replace, window
from audio_lens.errors import HookError, InputError, SiteError
from audio_lens.testing import random_musicgen

pytestmark = pytest.mark.usefixtures("as_users_see_it")


def forward(lens, codes=None):
    return lens("organ", lens.random_codes(frames=5) if codes is None else codes)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blocks.0.hook_resid_pots", "Did you mean 'blocks.0.hook_resid_post'"),
        ("resid_pots", "'resid_post'"),
        ("z", "could be several sites: say 'attn.z'"),
        ("hook_z", "could be several sites: say 'attn.z'"),
        ("pre", "'mlp.pre'"),
        ("blocks.9.attn.hook_z", "layer 9 is out of range: the model has layers 0 to 2"),
        ("blocks.*.nothing", "no site"),
    ],
)
def test_unknown_sites_are_answered_with_what_exists(lens, name, said):
    with pytest.raises(SiteError, match=re.escape(said)):
        lens.sites.resolve(name)
    with pytest.raises(SiteError, match=re.escape(said)), lens.hooks([(name, print)]):
        pass


@pytest.mark.parametrize("layer", [3, -4, 100])
def test_layers_out_of_range(lens, layer):
    with pytest.raises(SiteError, match="out of range"):
        lens.sites.resolve("resid_post", layers=layer)
    with pytest.raises(SiteError, match="out of range"):
        lens.run_with_cache("organ", lens.random_codes(frames=4), stop_at_layer=layer)


def bad_codes(lens):
    good = lens.random_codes(frames=6)
    return {
        "no batch axis": (good[0], "need a batch axis"),
        "codebooks": (good[:, :3], f"{lens.cfg.n_codebooks} codebooks"),
        "no frames": (good[..., :0], "frames >= 1"),
        "floating": (good.float(), "must be integers"),
        "too high": (good + 257, "must lie in 0..255"),
        "negative": (good - 300, "must lie in 0..255"),
        "delayed": (lens.delay.apply(good), "hold the padding id 256: they look delayed"),
        "no tensor": (good.tolist(), "must be an integer tensor"),
    }


@pytest.mark.parametrize(
    "case",
    ["no batch axis", "codebooks", "no frames", "floating", "too high", "negative", "delayed",
     "no tensor"],
)  # fmt: skip
def test_codes(lens, case):
    codes, said = bad_codes(lens)[case]
    with pytest.raises(InputError, match=re.escape(said)):
        lens.delay.check_codes(codes)
    with pytest.raises(InputError, match=re.escape(said)):
        forward(lens, codes)


def test_undelayed_tokens_are_refused(lens):
    bound = lens.bind("organ")
    with pytest.raises(InputError, match=r"not delayed|lack the prefix"):
        bound.run_with_hooks(lens.random_codes(frames=9))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompts": ""}, "prompt 0 is empty"),
        ({"prompts": ["organ", "  "]}, "prompt 1 is empty"),
        ({"prompts": []}, "prompts are empty"),
        ({"seconds": 0}, "above 0"),
        ({"seconds": -1.0}, "above 0"),
        ({"seconds": float("nan")}, "above 0"),
        ({"seconds": 0.001}, "shorter than one frame"),
        ({"seconds": 10_000}, "at most 40."),
        ({"prompts": ["a", "b"], "seed": [1, 2, 3]}, "3 seeds for 2 rows"),
        ({"seed": -1}, "at least 0"),
        ({"guidance_scale": 0.5}, "at least 1"),
        ({"temperature": 0.0}, "do_sample=False"),
        ({"top_k": 0}, "top_k"),
        ({"row_group": 0}, "row_group"),
        ({"names_filter": "resid_pots"}, "no site"),
    ],
)
def test_generate_settings(lens, settings, said):
    settings = {"prompts": "organ", "seconds": 0.1} | settings
    with pytest.raises(AudioLensError, match=re.escape(said)):
        lens.generate(settings.pop("prompts"), progress=False, **settings)


def test_a_prefix_longer_than_the_clip(lens):
    with pytest.raises(InputError, match=r"prefix lasts 0\.2 s and the clip 0\.2 s"):
        lens.generate("organ", seconds=0.2, prefix=lens.random_codes(frames=10), progress=False)


WRITES = {
    "shape": (lambda t: t[:, :1], "returned shape (1, 1, 64), expected (1, "),
    "dtype": (lambda t: t.double(), "returned dtype torch.float64, expected torch.float32"),
    "device": (lambda t: t.to("meta"), "returned device meta, expected cpu"),
    "NaN": (lambda t: t * float("nan"), "wrote NaN"),
    "NaN in place": (lambda t: t.fill_(float("nan")), "wrote NaN"),
    "no tensor": (lambda t: 0, "returns a tensor or None, got int"),
}


@pytest.mark.parametrize("case", WRITES)
def test_what_a_hook_writes(lens, case):
    write, said = WRITES[case]
    before = forward(lens)
    with (
        pytest.raises(HookError, match=re.escape(said)),
        lens.hooks([("blocks.1.hook_mlp_out", lambda tensor, *, hook: write(tensor))]),
    ):
        forward(lens)
    assert torch.equal(forward(lens), before)


@pytest.mark.parametrize("in_place", [True, False])
def test_read_only_sites_cannot_be_written(lens, in_place):
    def write(tensor, *, hook):
        return tensor.mul_(2) if in_place else tensor * 2

    name = "blocks.1.ln1.hook_scale"
    with pytest.raises(HookError, match=r"read-only: write blocks.1.ln1.hook_normalized"):
        lens.run_with_hooks("organ", lens.random_codes(frames=4), fwd_hooks=[(name, write)])
    with (
        pytest.raises(HookError, match="read-only"),
        lens.intervene(Intervention(name, add(torch.ones(1)))),
    ):
        pass


def test_a_bare_head_name_suggests_both_attentions():
    sites = random_musicgen(n_layers=1).sites
    with pytest.raises(SiteError, match=re.escape("'attn.z' or 'cross_attn.z'")):
        sites.resolve("z")


@pytest.mark.families("melody")
def test_sites_that_a_melody_model_does_not_have(lens):
    for name in ("cross_attn.z", "blocks.0.hook_resid_mid2"):
        with pytest.raises(SiteError, match="no site"):
            lens.sites.resolve(name)


@pytest.mark.families("mono", "stereo")
@pytest.mark.parametrize(
    "name", ["text.out", "text.proj", "cross_attn.k", "cross_attn.pattern", "ln_cross.normalized"]
)
def test_writing_to_text_where_there_is_none(lens, name):
    """A silent no-op otherwise: without a prompt nothing is attended to."""
    codes = lens.random_codes(frames=5)

    def shift(tensor, *, hook):
        return tensor + 1

    with pytest.raises(HookError, match="this run has no prompt"):
        lens.run_with_hooks(None, codes, fwd_hooks=[(name, shift)])
    with pytest.raises(HookError, match="this run has no prompt"), lens.hooks([(name, shift)]):
        lens.generate(None, seconds=0.1, progress=False)
    lens.run_with_hooks(None, codes, fwd_hooks=[("cross_attn.*", lambda tensor, *, hook: None)])


def test_rows_without_text_are_not_written_at_text(lens):
    codes = lens.random_codes(frames=5, batch=2)
    site = "text.out" if lens.cfg.chroma_length else "cross_attn.pattern"
    push = Intervention([site, "resid_post"], lambda t, c, hook: t * 2, rows=[0])
    with (
        pytest.raises(HookError, match=r"row 0: .*no prompt"),
        lens.intervene(push),
    ):
        lens([None, "organ"], codes)
    everywhere = Intervention([site, "resid_post"], lambda t, c, hook: t * 2)
    with pytest.raises(HookError, match="no prompt"), lens.intervene(everywhere):
        lens(None, codes)
    with lens.intervene(everywhere):
        assert lens([None, "organ"], codes).isfinite().all()


def test_a_hook_that_is_no_function(lens):
    with pytest.raises(HookError, match="no function"), lens.hooks([("resid_post", 3)]):
        pass


def test_a_hook_that_takes_no_hook(lens):
    with (
        pytest.raises(HookError, match=r"at 'resid_post' cannot be called as fn\(tensor, hook"),
        lens.hooks([("resid_post", lambda tensor: tensor)]),
    ):
        pass


@pytest.mark.parametrize("nothing", [lambda name: False, [], "blocks.*.nowhere"])
def test_asking_for_no_site_at_all(lens, nothing):
    """A silent no-op otherwise."""
    with pytest.raises(SiteError, match="no site"), lens.hooks([(nothing, print)]):
        pass
    with (
        pytest.raises(SiteError, match="no site"),
        lens.intervene(Intervention(nothing, add(torch.ones(64)))),
    ):
        pass


@pytest.mark.parametrize("hooks", [("resid_post", print), [("resid_post",)], 3])
def test_hooks_that_are_no_pairs(lens, hooks):
    with pytest.raises(HookError, match=r"list of \(site, function\) pairs"), lens.hooks(hooks):
        pass


def test_a_site_given_as_a_tuple(lens):
    with pytest.raises(SiteError, match="Say a layer in the name"):
        lens.sites.resolve([("resid_post", 1)])


def test_options_that_steering_does_not_have(lens):
    from audio_lens import Direction

    up = Direction({("resid_post", 1): torch.ones(64)})
    said = "no option 'coef': there are coefficient"
    with pytest.raises(TypeError, match=said), lens.steer(up, coef=1):
        pass


@pytest.mark.parametrize("rows", [[], 0, [True, False], ["one"], torch.tensor([True, False])])
def test_rows_that_are_none(lens, rows):
    push = Intervention("resid_post", add(torch.ones(64)), rows=rows)
    with pytest.raises(InputError, match=r"at least one row"), lens.intervene(push):
        pass


def test_parts_of_an_intervention(lens):
    with (
        pytest.raises(InputError, match="op must be an operation"),
        lens.intervene(Intervention("resid_post", 3)),
    ):
        pass
    with pytest.raises(InputError, match="takes Intervention objects"), lens.intervene("mlp_out"):
        pass


@pytest.mark.parametrize("seed", [3.0, "one", [1.5]])
def test_seeds_that_are_no_numbers(lens, seed):
    with pytest.raises(InputError, match="whole numbers"):
        lens.generate("organ", seed=seed, seconds=0.1, progress=False)


def test_numpy_integers_are_seeds(lens):
    import numpy as np

    ours = lens.generate("organ", seed=3, seconds=0.1, progress=False)
    theirs = lens.generate("organ", seed=np.int64(3), seconds=0.1, progress=False)
    assert torch.equal(ours[0].codes, theirs[0].codes)


def test_none_has_no_text_tokens(lens):
    with pytest.raises(InputError, match="no text tokens"):
        lens.text_tokens(None)


def test_branches(lens):
    with (
        pytest.raises(SiteError, match="no unconditional half"),
        lens.hooks([("resid_post", lambda tensor, *, hook: None)], branch="uncond"),
    ):
        forward(lens)
    with (
        pytest.raises(SiteError, match="no unconditional branch"),
        lens.hooks([("text.out", lambda tensor, *, hook: None)], branch="uncond"),
    ):
        pass
    with (
        pytest.raises(SiteError, match='"cond", "uncond" or "both"'),
        lens.intervene(Intervention("resid_post", add(torch.ones(64)), branch="conditional")),
    ):
        pass


@pytest.mark.parametrize(
    ("intervention", "said"),
    [
        (Intervention("resid_post", add(torch.ones(63))), "(63,) does not fit"),
        (Intervention("resid_post", add({0: torch.ones(64)})), "no vector for layer 1"),
        (Intervention("resid_post", add(torch.ones(64)), rows=[3]), "row 3, but the run has"),
        (Intervention("resid_post", add(torch.ones(64)), coefficient=[1, 2]), "for 1 rows"),
        (Intervention("resid_post", add(torch.ones(64)), coefficient=float("nan")), "not finite"),
        (Intervention("text.proj", add(torch.ones(64)), layers=1), "belongs to no layer"),
        (Intervention("text.out", add(torch.ones(32)), when=window(0, 1)), "no position axis"),
        (
            Intervention("resid_post", replace(torch.ones(64)), when=lambda h: [True]),
            "per position",
        ),
    ],
)
def test_interventions_that_do_not_fit(lens, intervention, said):
    with pytest.raises(AudioLensError, match=re.escape(said)), lens.intervene(intervention):
        forward(lens)


@pytest.mark.parametrize("bounds", [(-1, 2), (2, 2), (3, 1)])
def test_windows(bounds):
    with pytest.raises(InputError, match="need 0 <= start < stop"):
        window(*bounds)


def test_calling_the_model_itself_while_hooks_are_active(lens):
    model = lens.hf_model
    inputs = lens.processor(text=["organ"], return_tensors="pt")
    with lens.hooks([("resid_post", lambda tensor, *, hook: None)]):
        with pytest.raises(AudioLensError, match="leave the `with` block first"):
            _ = lens.hf_model
        with pytest.raises(AudioLensError, match="called directly while hooks are active"):
            model.generate(**inputs, max_new_tokens=8)
    assert model.generate(**inputs, max_new_tokens=8).shape[0] == 1


def test_a_hook_that_calls_its_own_lens(lens):
    def recurse(tensor, *, hook):
        forward(lens)

    with (
        pytest.raises(AudioLensError, match="already running"),
        lens.hooks([("resid_post", recurse)]),
    ):
        forward(lens)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind(lens, error):
    before = forward(lens)

    def fail(tensor, *, hook):
        tensor += 1
        if hook.step == 2:
            raise error("stop")

    with pytest.raises(error), lens.hooks([("resid_post", fail)]):
        lens.generate("organ", seconds=0.2, progress=False)
    assert torch.equal(forward(lens), before)


@pytest.mark.families("mono")
def test_a_melody_for_a_model_that_takes_none(lens):
    tune = Prompt("organ", melody=torch.zeros(32000), sample_rate=32000)
    with pytest.raises(InputError, match="does not take"):
        lens.generate(["drums", tune], seconds=0.1, progress=False)


@pytest.mark.families("melody")
def test_melodies_that_cannot_be_taken(lens):
    with pytest.raises(InputError, match="give sample_rate="):
        Prompt("organ", melody=torch.zeros(32000))
    with pytest.raises(InputError, match="a melody is a clip"):
        Prompt("organ", melody=3)
    for chroma in (torch.zeros(0, 12), torch.full((3, 12), float("nan"))):
        with pytest.raises(InputError, match="at least one frame of finite numbers"):
            Prompt("organ", melody=chroma)
    long = Prompt("organ", melody=torch.nn.functional.one_hot(torch.zeros(9).long(), 12))
    with pytest.warns(UserWarning, match="9 chroma frames and the model takes 8"):
        lens(long, lens.random_codes(frames=4))


def test_folders_that_are_no_musicgen(tmp_path: Path):
    with pytest.raises(InputError, match="no folder at"):
        AudioLens.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no checkpoint"):
        AudioLens.from_pretrained(tmp_path)
    lens = random_musicgen(n_layers=1)
    lens.hf_model.text_encoder.save_pretrained(tmp_path / "t5")
    with pytest.raises(InputError, match="a 't5' model, not MusicGen"):
        AudioLens.from_pretrained(tmp_path / "t5")
    with pytest.raises(InputError, match="trust_remote_code is never used"):
        AudioLens.from_pretrained("toy", trust_remote_code=True)
    with pytest.raises(InputError, match="not MusicGen"):
        AudioLens.from_model(lens.hf_model.text_encoder)


def test_a_lens_without_a_processor():
    lens = AudioLens.from_model(random_musicgen(n_layers=1).hf_model)
    assert lens.generate(None, seconds=0.1, progress=False)[0].codes.shape == (4, 5)
    assert lens.check().ok
    with pytest.raises(InputError, match="has no tokenizer"):
        lens.generate("organ", seconds=0.1, progress=False)
