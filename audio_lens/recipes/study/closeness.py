"""What is left of the unsteered clip: closeness to the twin, beside that of another seed's clip."""

from collections.abc import Callable, Sequence
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

    known = {(row["prompt"], row["seed"], row["coefficient"]): row for row in rows}
    prompts = list(dict.fromkeys(row["prompt"] for row in rows))
    first, *others = sorted({row["seed"] for row in rows})

    def clips(seed: int, coefficient: float) -> list[Clip]:
        return [clip(known[prompt, seed, coefficient]) for prompt in prompts]

    twins = clips(first, 0.0)
    compared = [("steered", sign, first, choice.coefficients[sign]) for sign in SIGNS]
    compared += [("another seed", "", other, 0.0) for other in others[:1]]
    lines = []
    for name, sign, *cell in compared:
        pairs = list(zip(clips(*cell), twins, strict=True))
        line: dict[str, object] = {"beside the twin": name, "sign": sign, "clips": len(pairs)}
        for measure, close in _MEASURES.items():
            values = [close(a.samples, b.samples, a.sample_rate, aligned=True) for a, b in pairs]
            found = bootstrap(np.array(values)[:, None], draws=1000)
            for what, number in (("", found.value), (" low", found.low), (" high", found.high)):
                line[f"{measure}{what}"] = number
        lines.append(line)
    return pandas.DataFrame(lines)
