"""Draw the pictures of the pages on methods: `python docs/make_figures.py [NAME ...]`.

All are of the shipped toy, with the settings that stand here; they go to `docs/figures`.
Pictures of studies are `make_studies.py`'s, those of probing tasks `make_probing.py`'s.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from audio_lens import (
    AudioLens,
    activation_patch,
    attention_to_words,
    difference_in_means,
    logit_attribution,
    logit_lens,
    metrics,
)
from audio_lens.analysis.poles import gather_poles
from audio_lens.analysis.stability import stability
from audio_lens.audio.words import neutral_prompts, pole_prompts
from audio_lens.steering import cross_talk

OUT = Path(__file__).parent / "figures"
NEUTRAL = neutral_prompts("dev")


def patching_map(lens: AudioLens) -> Figure:
    """What restores "fast", when the prompt says "slow": the stream by layer and time."""
    return _fast_into_slow(lens, "resid_post", ("layer", "pos"))


def patching_parts(lens: AudioLens) -> Figure:
    """The same for what each sublayer writes."""
    return _fast_into_slow(lens, ["attn_out", "cross_attn_out", "mlp_out"], ("layer", "pos"))


def _fast_into_slow(lens: AudioLens, site: str | list[str], axes: tuple[str, ...]) -> Figure:
    poles = pole_prompts("tempo")
    fast, slow = poles.positive[:8], poles.negative[:8]
    clips = lens.generate(fast, seconds=4.0, seed=list(range(8)), progress=False)
    codes = lens.encode(clips)
    return activation_patch(
        lens, clean=(fast, codes), corrupted=(slow, codes), site=site, axes=axes, positions=25,
        metric=metrics.logprob(codes), progress=False,
    ).plot()  # fmt: skip


def lens_ranks(lens: AudioLens) -> Figure:
    """At which layer the true code is known, by codebook and time."""
    prompt = "A fast bright pop piano melody"
    clips = lens.generate(prompt, seconds=4.0, seed=0, progress=False)
    return logit_lens(lens, prompt, lens.encode(clips)).plot("rank")


def attention_words(lens: AudioLens) -> Figure:
    """Which words of the prompt every head of cross-attention looks at."""
    prompt = "A fast bright pop piano melody"
    clips = lens.generate(prompt, seconds=4.0, seed=list(range(8)), progress=False)
    return attention_to_words(lens, prompt, lens.encode(clips)).plot()


def attribution(lens: AudioLens) -> Figure:
    """What each part adds to the logit of the code that comes, by codebook."""
    clips = lens.generate(list(NEUTRAL[:8]), seconds=4.0, seed=0, progress=False)
    codes = lens.encode(clips)
    return logit_attribution(lens, list(NEUTRAL[:8]), codes).plot()


def direction_stability(lens: AudioLens) -> Figure:
    """How well a direction from few pairs agrees with that from all the other pairs."""
    prompts = pole_prompts("tempo")
    poles = gather_poles(
        lens, positive=prompts.positive, negative=prompts.negative, seconds=4.0, progress=False
    )
    return stability(poles, sizes=[1, 2, 5, 10, 25, 50]).plot()


def branches(lens: AudioLens) -> Figure:
    """With what weight steering each half reaches the guided logits, beside a linear model's."""
    from audio_lens.plots._picture import Picture

    poles = pole_prompts("timbre")
    brighter = difference_in_means(
        lens, positive=poles.positive[::5], negative=poles.negative[::5], seconds=4.0,
        progress=False,
    )  # fmt: skip
    prompts = list(NEUTRAL[:8])
    codes = lens.encode(lens.generate(prompts, seconds=4.0, seed=0, progress=False))

    def change(branch: str, scale: float) -> torch.Tensor:
        with torch.no_grad():
            before = lens(prompts, codes, guidance_scale=scale)
            with lens.steer(brighter, source_layer=2, coefficient=0.2, branch=branch):
                return (lens(prompts, codes, guidance_scale=scale) - before).flatten()

    scales = np.array([1.5, 2.0, 3.0, 4.0, 5.0, 6.0])
    figure = Picture(figsize=(6, 3.8), layout="constrained")
    panel = figure.subplots()
    panel.axhline(1, color="C0", label="both (by definition)")
    boths = [change("both", scale) for scale in scales]
    for color, branch, linear in (("C1", "cond", scales), ("C2", "uncond", 1 - scales)):
        weights = [
            float(change(branch, scale) @ both / (both @ both))
            for scale, both in zip(scales, boths, strict=True)
        ]
        panel.plot(scales, weights, marker="o", color=color, label=f"{branch}, measured")
        panel.plot(scales, linear, ":", color=color, label=f"{branch}, in a linear model")
    panel.set(xlabel="guidance scale", ylabel="weight at the guided logits")
    panel.legend(frameon=False, fontsize="small")
    return figure


def crossed(lens: AudioLens) -> Figure:
    """What steering by each concept's direction does to each measure."""
    made = {}
    for name in ("tempo", "timbre"):
        poles = pole_prompts(name)
        made[name] = difference_in_means(
            lens, positive=poles.positive[::2], negative=poles.negative[::2],
            site="cross_attn_out", progress=False,
        )  # fmt: skip
    made["random"] = made["timbre"].random_like(0)
    return cross_talk(
        lens, made, NEUTRAL, strategy="all_to_all", branch="cond", coefficient=0.5, progress=False,
        measures=("pulse_bpm", "onset_rate", "spectral_centroid", "register", "loudness"),
    ).plot()  # fmt: skip


FIGURES: dict[str, Callable[[AudioLens], Figure]] = {
    "patching-map": patching_map,
    "patching-parts": patching_parts,
    "lens-ranks": lens_ranks,
    "attention-words": attention_words,
    "attribution": attribution,
    "direction-stability": direction_stability,
    "steering-branches": branches,
    "steering-cross-talk": crossed,
}


def main(names: list[str]) -> None:
    """Draw the pictures of these names, or all."""
    lens = AudioLens.from_pretrained("toy")
    OUT.mkdir(exist_ok=True)
    for name in names or FIGURES:
        FIGURES[name](lens).savefig(OUT / f"{name}.png", dpi=80)


if __name__ == "__main__":
    main(sys.argv[1:])
