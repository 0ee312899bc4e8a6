"""The matched prompt sets as a data file, for those who want prompts without this package.

`prompts.json` beside this file is written from `words` and never read by the package: training,
captions and recipes need templates and words, not finished sentences, so the functions stay the
one source, and a test holds the file to them.

    python -m audio_lens.audio.prompts                # is the file what the functions say?
    python -m audio_lens.audio.prompts --write        # make it so
    python -m audio_lens.audio.prompts --tokens t5-base    # tokens of the poles, by a tokenizer
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from audio_lens.audio import words

FORMAT_VERSION = 1
PATH = Path(__file__).with_name("prompts.json")
CONCEPTS = ("tempo", "timbre")


def document() -> dict[str, Any]:
    """All prompt sets as plain data, in the shape of `prompts.json`.

    Poles with their context, neutral prompts with split and stratum, seeds by purpose, and the
    words that were left out on purpose.

    >>> made = document()
    >>> made["concepts"]["tempo"]["prompts"][0]["negative"]
    'Pop music with piano, bass and drums, at a slow tempo'
    """
    return {
        "format_version": FORMAT_VERSION,
        "licence": "MIT",
        "concepts": {concept: _concept(concept) for concept in CONCEPTS},
        "neutral": [
            {
                "text": record.text,
                "split": record.split,
                "stratum": {"drums": record.drums, "familiar": record.familiar},
                "instrument": record.instrument,
                "genre": record.genre,
            }
            for record in words.neutral_records()
        ],
        "seeds": {
            purpose: {"first": first, "last": last}
            for purpose, (first, last) in words.SEEDS.items()
        },
        "not_used": {
            "words": {word: {"also_means": list(also)} for word, also in words.NOT_USED.items()},
            "genres": dict.fromkeys(words.GENRES_NOT_USED, "implies a pole"),
        },
    }


def _concept(concept: str) -> dict[str, Any]:
    poles, pairs = words.pole_prompts(concept), words.pairs(concept)
    return {
        "pairs": [{"positive": positive, "negative": negative} for positive, negative in pairs],
        "core_pair": words.CORE_PAIR,
        "prompts": [
            {
                "positive": positive,
                "negative": negative,
                "instrument": context.instrument,
                "genre": context.genre,
                "pair": context.pair,
                "template": context.template,
            }
            for context, positive, negative in zip(
                poles.contexts, poles.positive, poles.negative, strict=True
            )
        ],
    }


def as_text() -> str:
    """What `prompts.json` holds, to the letter.

    >>> as_text().startswith('{') and as_text().endswith('}\\n')
    True
    """
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def token_counts(concept: str, tokenizer: Any) -> Int[np.ndarray, "pole=2 prompt=100"]:
    """Tokens of each pole prompt, positive pole first, end of sequence included.

    tokenizer: one of transformers'. Words of one pair may differ in length: where they do, the
    poles' text differs in positions too, which a direction can pick up. Raises ValueError for an
    unknown concept.

    >>> from audio_lens import AudioLens
    >>> token_counts("tempo", AudioLens.from_pretrained("toy").processor.tokenizer).shape
    (2, 100)
    """
    poles = words.pole_prompts(concept)
    return np.array(
        [
            [len(ids) for ids in tokenizer(list(p)).input_ids]
            for p in (poles.positive, poles.negative)
        ]
    )


def _token_report(name: str) -> str:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name)
    lines = []
    for concept in CONCEPTS:
        positive, negative = token_counts(concept, tokenizer)
        lines.append(
            f"{concept}: {positive.mean():.1f} and {negative.mean():.1f} tokens at the positive "
            f"and the negative pole, {np.mean(positive == negative):.0%} of pairs equal"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or write the data file, or count tokens; 1 where the file is stale."""
    parser = argparse.ArgumentParser(prog="python -m audio_lens.audio.prompts")
    parser.add_argument("--write", action="store_true", help=f"write {PATH.name}")
    parser.add_argument("--tokens", metavar="NAME", help="count tokens: hub name or folder")
    options = parser.parse_args(arguments)
    if options.tokens:
        sys.stdout.write(_token_report(options.tokens) + "\n")
    if options.write:
        PATH.write_text(as_text(), encoding="utf-8")
    elif not PATH.is_file() or PATH.read_text(encoding="utf-8") != as_text():
        sys.stderr.write(
            f"{PATH.name} is stale: run `python -m audio_lens.audio.prompts --write`\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
