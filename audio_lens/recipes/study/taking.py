"""The direction taken in other ways, and from fewer words: does it stay the same?"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from audio_lens.analysis.directions import Direction
from audio_lens.analysis.poles import Poles, ways_of_taking
from audio_lens.files import whole
from audio_lens.recipes.study.choosing import Choice
from audio_lens.recipes.study.doses import cell, estimated
from audio_lens.recipes.study.hearing import Hearing
from audio_lens.recipes.study.ledger import Ledger
from audio_lens.recipes.study.settings import StudySettings

if TYPE_CHECKING:
    from pandas import DataFrame

    from audio_lens.lens.lens import AudioLens


def other_ways(
    lens: "AudioLens",
    ledger: Ledger,
    positive: Sequence[str],
    negative: Sequence[str],
    settings: StudySettings,
    *,
    progress: bool = True,
) -> dict[str, Direction]:
    """The direction from the same codes, from the first step and from the end of the text.

    Kept in the folder once made.
    """
    folder = ledger.file("directions")
    kept = {path.stem: Direction.load(path) for path in sorted(folder.glob("*.safetensors"))}
    wanted = ("same_codes", "first_step", *(("eos_text",) if lens.cfg.chroma_length else ()))
    missing = [way for way in wanted if way not in kept]
    if missing:
        ledger.hold()
        made = ways_of_taking(
            lens, positive=positive, negative=negative, ways=missing,
            site=settings.sites_of(lens), seconds=settings.direction_seconds,
            seed=settings.direction_seed, guidance_scale=settings.guidance_scale,
            rows_at_once=settings.rows_at_once, progress=progress,
        )  # fmt: skip
        for name, direction in made.items():
            with whole(folder / f"{name}.safetensors") as partial:
                direction.save(partial)
        kept |= made
    return {way: kept[way] for way in wanted}


def ways_beside(
    hearing: Hearing,
    real: Direction,
    others: Mapping[str, Direction],
    choice: Choice,
    settings: StudySettings,
) -> "DataFrame":
    """Cosine, effect and distortion of each, at the chosen place and length, on dev prompts.

    `real` is the study's own, where each pole plays its own music (or as `pool` says).
    """
    import pandas

    dev, seeds = hearing.concept.dev, range(settings.compare_seeds)
    doses = list(choice.coefficients.values())
    lines: list[dict[str, Any]] = []
    for name, direction in {"real": real, **others}.items():
        used = direction.scaled_to(real)
        stage = "real" if name == "real" else "taking"
        rows = hearing.steered(
            stage, name, used, choice.way, prompts=dev, seeds=seeds, coefficients=doses
        )
        nats = hearing.nats(used, choice.way, doses, settings.distortion_clips)
        for sign, dose in choice.coefficients.items():
            lines.append(
                {
                    "taken": name,
                    "cosine": _cosine(direction, real, choice),
                    "sign": sign,
                    **estimated(cell(rows, dose, "change")),
                    "nats": nats[dose],
                }
            )
    return pandas.DataFrame(lines)


def _cosine(direction: Direction, real: Direction, choice: Choice) -> float:
    """At the layer whose vector is used; the mean over layers where each uses its own."""
    cosines = direction.cosine(real)
    site, layer = choice.way.site, choice.way.source_layer
    used = [c for (name, at), c in cosines.items() if name == site and layer in (None, at)]
    return float(np.mean(used))


def from_fewer_words(
    poles: Poles, selections: Mapping[str, Sequence[int]], kept: Sequence[int]
) -> "DataFrame":
    """Cosine of directions from selections of the pairs with the whole one; a column per layer.

    kept: which of the concept's pairs were gathered, in order.
    """
    import pandas
    from torch.nn.functional import cosine_similarity

    place = {pair: n for n, pair in enumerate(kept)}
    lines = []
    for name, wanted in selections.items():
        rows = [place[pair] for pair in wanted if pair in place]
        if not rows:
            continue
        line: dict[str, Any] = {"words": name, "pairs": len(rows)}
        for (_, layer), pairs in poles.pairs.items():
            flat = pairs.flatten(1)
            line[f"layer {layer}"] = float(
                cosine_similarity(flat[rows].mean(0), flat.mean(0), dim=0)
            )
        lines.append(line)
    return pandas.DataFrame(lines)
