"""Words a small model was taught, and what is said when a prompt holds others.

A checkpoint may list its words in its configuration, under `vocabulary`. The toys do: a word they
never saw is spelled in bytes that mean nothing to them, and the clip would not tell. Published
checkpoints, which read anything, list none, and are never warned about.
"""

import re
import string
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import FrameType

from audio_lens.errors import UnknownWordWarning

_MEANT = {
    "adagio": "slow",
    "allegro": "fast",
    "hurried": "fast",
    "lento": "slow",
    "percussion": "drums",
    "song": "track",
    "speed": "tempo",
    "timbre": "tone",
    "tune": "melody",
    "unhurried": "slow",
    "vivace": "fast",
}
"""Words people use for tempo, timbre and music, and a plain one that says the same; it is suggested
where the checkpoint knows it."""

_CLOSE = 0.7
"""How alike in spelling (0 to 1) a word must be to be suggested."""

_BETWEEN = ("audio_lens", "beartype", "contextlib", "jaxtyping", "nnsight", "torch")
"""Packages whose frames lie between a user's line and here."""


def words_of(prompt: str) -> tuple[str, ...]:
    """The words of a prompt as the toys' tokenizer tells them apart: at spaces and commas.

    Capitals and full-width letters are levelled, marks behind a word dropped. Marks in front of it
    are part of it, as are line breaks: to the tokenizer they make it another word.

    Example:
        >>> words_of("A FAST, fast-paced (bright) melody!")
        ('a', 'fast', 'fast-paced', '(bright', 'melody')
    """
    levelled = unicodedata.normalize("NFKC", prompt).lower()
    parts = (
        part.rstrip(string.punctuation + string.whitespace) for part in re.split("[ ,]", levelled)
    )
    return tuple(part for part in parts if part)


class Vocabulary:
    """The words of a model, and which others have been told of: each is told of once.

    Example:
        >>> vocabulary = Vocabulary(["fast", "slow", "piano"])
        >>> vocabulary.unknown(["Fast pianos", None]), vocabulary.suggestion("pianos")
        (['pianos'], 'piano')
    """

    def __init__(self, words: Sequence[str] | None) -> None:
        self._known = None if words is None else frozenset(words)
        self._told: set[str] = set()

    def unknown(self, prompts: Iterable[str | None]) -> list[str]:
        """Words of the prompts that the model does not know, each once, in order."""
        if self._known is None:
            return []
        said = (word for prompt in prompts if prompt is not None for word in words_of(prompt))
        return [word for word in dict.fromkeys(said) if word not in self._known]

    def suggestion(self, word: str) -> str | None:
        """What the model knows that may be meant, by spelling or by meaning, or None."""
        known = sorted(self._known or ())
        parts = re.findall(r"\w+", word)
        if parts and all(part in known for part in parts):
            return " ".join(parts)
        if _MEANT.get(word) in known:
            return _MEANT[word]
        whole = [other for other in known if len(word) > 2 and other.startswith(word)]
        return next(iter(get_close_matches(word, known, 1, _CLOSE) or whole), None)

    def heed(self, prompts: Iterable[str | None]) -> None:
        """Warn of unknown words that have not been told of yet, at the user's line."""
        if new := [word for word in self.unknown(prompts) if word not in self._told]:
            told = []
            for word in new:
                near = self.suggestion(word)
                told.append(repr(word) if near is None else f"{word!r} (perhaps {near!r})")
            one = len(new) == 1
            warnings.warn(
                f"this checkpoint was never taught the word{'' if one else 's'} "
                f"{', '.join(told)}: {'it means' if one else 'they mean'} nothing to it. "
                f"`lens.cfg.vocabulary` lists the words it knows.",
                UnknownWordWarning,
                stacklevel=_to_user(sys._getframe()),
            )
            self._told.update(new)


def _to_user(frame: FrameType) -> int:
    """How many levels above a frame, counted from 1, the line stands that a user wrote."""
    level = 1
    while frame.f_back is not None and _is_between(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level


def _is_between(module: str) -> bool:
    return module.partition(".")[0] in _BETWEEN
