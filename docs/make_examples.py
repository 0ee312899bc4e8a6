"""Write the page of examples and its sounds: ten rendered clips, and ten from each toy.

    python docs/make_examples.py

Rendered clips are of the kind that the toys were taught on, from seeds that training never drew.
Generated ones come from test prompts, in order, none left out.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from audio_lens import AudioLens
from audio_lens.audio import words
from audio_lens.audio.clip import Clip
from audio_lens.audio.synthesis import SAMPLE_RATE, draw, render
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import spectral_centroid
from audio_lens.lens.loading import CHECKPOINTS

PAGE = Path(__file__).parent / "examples.md"
SOUNDS = PAGE.with_suffix("")
N, SECONDS, FIRST_SEED = 10, 10.0, 1_000_000
_HEAD = """# Examples

Made by `python docs/make_examples.py`. Nothing was picked: seeds and prompts are the first ones.
Tempo is what `pulse_bpm` hears ("none" where it hears no beat), brightness the spectral centroid.
"""


def rendered() -> Iterator[tuple[Clip, str]]:
    """Held-out clips, with what is known of them."""
    for seed in range(FIRST_SEED, FIRST_SEED + N):
        recipe = draw(seed)
        wave = torch.from_numpy(render(recipe, SECONDS))[None]
        known = f"{recipe.bpm:.0f} BPM" + ("" if recipe.drums else ", no drums")
        yield Clip(wave, SAMPLE_RATE, prompt=recipe.caption), known


def generated(toy: str) -> Iterator[tuple[Clip, str]]:
    """Two clips for each pole, and two of neutral prompts."""
    prompts: list[tuple[str, str]] = []
    for concept in ("tempo", "timbre"):
        poles = words.pole_prompts(concept)
        for side in (poles.positive, poles.negative):
            prompts += [(prompt, concept) for prompt in side[:2]]
    prompts += [(prompt, "neutral") for prompt in words.neutral_prompts("test")[:2]]
    lens = AudioLens.from_pretrained(toy)
    clips = lens.generate(
        [prompt for prompt, _ in prompts], seconds=SECONDS, seed=list(range(1000, 1000 + N)),
        progress=False,
    )  # fmt: skip
    yield from ((clip, kind) for clip, (_, kind) in zip(clips, prompts, strict=True))


def section(title: str, folder: str, clips: Iterator[tuple[Clip, str]]) -> list[str]:
    """A table of clips, and their sounds written beside the page."""
    lines = [
        f"\n## {title}\n",
        "| | text | label or kind | tempo heard | centroid |",
        "|---|---|---|---|---|",
    ]
    for n, (clip, known) in enumerate(clips):
        path = clip.save(SOUNDS / folder / f"{n}.ogg")
        bpm = pulse_bpm(clip.samples, clip.sample_rate)
        heard = "none" if np.isnan(bpm) else f"{bpm:.0f} BPM"
        centroid = spectral_centroid(clip.samples, clip.sample_rate)
        link = path.relative_to(PAGE.parent)
        lines.append(f"| [{n}]({link}) | {clip.prompt} | {known} | {heard} | {centroid:.0f} Hz |")
    return lines


def main() -> None:
    """Write everything."""
    lines = [_HEAD.rstrip("\n"), *section("Rendered", "rendered", rendered())]
    for toy in CHECKPOINTS:
        lines += section(f"Played by `{toy}`", toy, generated(toy))
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
