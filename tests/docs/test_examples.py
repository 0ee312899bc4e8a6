"""The page of examples: the first seeds and prompts, each with its sound."""

import re
from pathlib import Path

import soundfile

from audio_lens.audio import words
from audio_lens.audio.synthesis import draw
from audio_lens.lens.loading import CHECKPOINTS

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| \[\d+\]\(([^)]+)\) \| (.+?) \| (.+?) \|", re.MULTILINE)


def rows(folder: str) -> list[tuple[str, ...]]:
    found = ROW.findall((DOCS / "examples.md").read_text())
    return [row for row in found if row[0].startswith(f"examples/{folder}/")]


def test_every_sound_is_there_and_lasts_ten_seconds() -> None:
    for folder in ("rendered", *CHECKPOINTS):
        assert len(rows(folder)) == 10
        for path, *_ in rows(folder):
            assert abs(soundfile.info(DOCS / path).duration - 10) < 0.1


def test_rendered_ones_are_the_first_held_out_clips() -> None:
    for place, (_, text, known) in enumerate(rows("rendered")):
        recipe = draw(1_000_000 + place)
        assert text == recipe.caption
        assert known.startswith(f"{recipe.bpm:.0f} BPM")


def test_generated_ones_are_the_first_prompts_of_each_kind() -> None:
    tempo, timbre = (words.pole_prompts(concept) for concept in ("tempo", "timbre"))
    sides = (tempo.positive, tempo.negative, timbre.positive, timbre.negative)
    wanted = [p for side in (*sides, words.neutral_prompts("test")) for p in side[:2]]
    for toy in CHECKPOINTS:
        assert [text for _, text, _ in rows(toy)] == wanted
