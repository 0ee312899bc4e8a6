"""What is left of the unsteered clip: closeness to the twin, beside that of another seed's clip."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from audio_lens.analysis.statistics import bootstrap
from audio_lens.audio.clip import Clip
from audio_lens.audio.closeness import chroma_closeness, log_mel_distance
from audio_lens.recipes.study.choosing import Choice
from audio_lens.recipes.study.ledger import Row
from audio_lens.recipes.study.strengths import SIGNS

if TYPE_CHECKING:
    from pandas import DataFrame

_MEASURES = {"chroma": chroma_closeness, "log-mel, dB": log_mel_distance}


def closeness(rows: Sequence[Row], choice: Choice, clip: Callable[[Row], Clip]) -> "DataFrame":
    """How close clips stay to the unsteered clip of their prompt and seed, along their time
    alignment; exploratory.

    chroma: mean cosine of pitch classes, 1 where they are the same; log-mel: distance in dB, 0
    where they are the same. The last line says what "another clip" means: unsteered ones of the
    same prompts and another seed.

    Args:
        rows: Test clips, twins among them; of the first seed of each prompt those at the chosen
            coefficients are heard.
        choice: Whose coefficients.
        clip: The clip of a row.
    """
    import pandas

    lines = []
    for name, sign, pairs in _pairs(rows, choice):
        heard = [(clip(row), clip(twin)) for row, twin in pairs]
        line: dict[str, object] = {"beside the twin": name, "sign": sign, "clips": len(heard)}
        for measure, close in _MEASURES.items():
            values = [close(a.samples, b.samples, a.sample_rate, aligned=True) for a, b in heard]
            found = bootstrap(np.array(values)[:, None], draws=1000)
            for what, number in (("", found.value), (" low", found.low), (" high", found.high)):
                line[f"{measure}{what}"] = number
        lines.append(line)
    return pandas.DataFrame(lines)


def _pairs(rows: Sequence[Row], choice: Choice) -> Iterator[tuple[str, str, list[tuple[Row, Row]]]]:
    """Clips beside their twins: of each sign, and what stands for another clip altogether."""
    known = {(row["prompt"], row["seed"], row["coefficient"]): row for row in rows}
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    first, *others = sorted({row["seed"] for row in rows})
    twins = {prompt: known[prompt, first, 0.0] for prompt in prompts}
    for sign in SIGNS:
        dose = choice.coefficients[sign]
        yield "steered", sign, [(known[p, first, dose], twins[p]) for p in prompts]
    if others:
        yield "another seed", "", [(known[p, others[0], 0.0], twins[p]) for p in prompts]
