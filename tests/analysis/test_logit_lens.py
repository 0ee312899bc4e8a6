"""The logit lens: against the model's own logits, against a skipped model, and heard."""

import numpy as np
import pytest
import torch

from audio_lens.analysis.logit_lens import early_exit, logit_lens
from audio_lens.errors import InputError, SiteError

PROMPTS = ["a slow organ", "a fast organ"]


@pytest.fixture(scope="module")
def codes(lens):
    return lens.random_codes(frames=9, batch=2, seed=3)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_last_layer_predicts_what_the_model_does(lens, codes, guidance_scale) -> None:
    logits = lens(PROMPTS, codes, guidance_scale=guidance_scale).log_softmax(-1)
    found = logit_lens(lens, PROMPTS, codes, guidance_scale=guidance_scale)
    true = logits.gather(-1, codes[..., None])[..., 0]
    assert torch.allclose(found.log_probability[-1], true, atol=1e-5)
    assert torch.equal(found.rank[-1], (logits > true[..., None]).sum(-1))
    assert torch.equal(found.heard[-1], logits.argmax(-1))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert torch.allclose(found.entropy[-1], entropy, atol=1e-4)
    assert found.kl[-1].abs().max() < 1e-4
    assert found.kl[0].min() > 1e-3


def test_every_layer_predicts_what_a_model_that_ends_there_does(lens, codes) -> None:
    found = logit_lens(lens, PROMPTS, codes)
    assert found.layers == ("embed", *(str(n) for n in range(lens.cfg.n_layers)))
    for layer in range(lens.cfg.n_layers):
        with early_exit(lens, layer):
            logits = lens(PROMPTS, codes).log_softmax(-1)
        true = logits.gather(-1, codes[..., None])[..., 0]
        assert torch.allclose(found.log_probability[layer + 1], true, atol=1e-5)
    again = lens(PROMPTS, codes).log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    assert torch.allclose(found.log_probability[-1], again, atol=1e-5)  # nothing stays behind


def test_an_early_exit_plays_what_its_own_layer_predicts(lens) -> None:
    """Greedy and unguided: each code is the likeliest behind that layer, given those before."""
    making = {"seconds": 0.2, "do_sample": False, "guidance_scale": 1.0, "progress": False}
    with early_exit(lens, 0):
        (clip,) = lens.generate(PROMPTS[0], **making)
    (whole,) = lens.generate(PROMPTS[0], **making)
    found = logit_lens(lens, PROMPTS[0], clip.codes[None])
    assert torch.equal(found.heard[found.layers.index("0"), 0], clip.codes)
    assert not torch.equal(clip.codes, whole.codes)
    assert clip.interventions == ("early exit behind layer 0",)


def test_what_is_written_behind_an_exit_is_heard_and_what_comes_later_is_not(lens, codes) -> None:
    def louder(tensor, *, hook):
        return tensor * 2

    with early_exit(lens, 1):
        plain = lens(PROMPTS, codes)
        with lens.hooks([("blocks.1.hook_resid_post", louder)]):
            edited = lens(PROMPTS, codes)
        with lens.hooks([("blocks.2.hook_resid_pre", louder)]):
            later = lens(PROMPTS, codes)
    with lens.hooks([("blocks.1.hook_resid_post", louder)]), early_exit(lens, 1):
        outside = lens(PROMPTS, codes)
    assert torch.equal(edited, outside)
    assert not torch.equal(edited, plain)
    assert torch.equal(later, plain)


def test_each_row_is_guided_for_itself(lens, codes) -> None:
    prompts = [PROMPTS[0], None]
    both = logit_lens(lens, prompts, codes, guidance_scale=3.0)
    logits = lens(prompts, codes, guidance_scale=3.0).log_softmax(-1)
    true = logits.gather(-1, codes[..., None])[..., 0]
    assert torch.allclose(both.log_probability[-1], true, atol=1e-5)


def test_layers_are_heard_listed_and_drawn(lens, codes) -> None:
    found = logit_lens(lens, PROMPTS, codes, layers=[1], seed=0)
    assert found.layers == ("embed", "1")
    clips = found.hear(1)
    assert torch.equal(torch.stack([clip.codes for clip in clips]), found.heard[1])
    assert clips[0].interventions == ("as predicted behind layer 1",)
    assert clips[0].prompt == PROMPTS[0]
    assert clips[0].seconds == pytest.approx(9 / lens.cfg.frame_rate)
    drawn = logit_lens(lens, PROMPTS, codes, layers=[1], seed=0).heard
    other = logit_lens(lens, PROMPTS, codes, layers=[1], seed=1).heard
    assert torch.equal(drawn, found.heard)
    assert not torch.equal(other, found.heard)
    table = found.to_dataframe()
    assert len(table) == 2 * lens.cfg.n_codebooks
    assert table["kl"][0] == pytest.approx(float(found.kl[0, :, 0].mean()))
    figure = found.plot("rank", example=1)
    assert len(figure.axes) == lens.cfg.n_codebooks + 1  # and the colours
    assert figure.axes[0].get_xlabel() == "seconds"


def test_bad_input_is_named(lens, codes, as_users_see_it) -> None:
    found = logit_lens(lens, PROMPTS[0], codes[:1])
    with pytest.raises(InputError, match="no layer 9: there are embed, 0"):
        found.hear(9)
    with pytest.raises(InputError, match="what must be one of log_probability"):
        found.plot("loss")
    with pytest.raises(SiteError, match="layer 9 is out of range"):
        logit_lens(lens, PROMPTS[0], codes[:1], layers=[9])
    with pytest.raises(SiteError, match="layer 9 is out of range"), early_exit(lens, 9):
        pass
    with early_exit(lens, np.int64(0)):
        pass
    with pytest.raises(InputError, match="takes one layer"), early_exit(lens, [1]):
        pass


def test_what_is_drawn_of_a_row_does_not_depend_on_the_others(lens, codes) -> None:
    both = logit_lens(lens, PROMPTS, codes, seed=[4, 5]).heard
    for row, seed in enumerate((4, 5)):
        alone = logit_lens(lens, PROMPTS[row], codes[row : row + 1], seed=seed).heard
        assert torch.equal(both[:, row], alone[:, 0])
    assert not torch.equal(both, logit_lens(lens, PROMPTS, codes, seed=4).heard)
