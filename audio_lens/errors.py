"""The errors and warnings users meet: each names the culprit, what was expected, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class AudioLensError(ValueError):
    """Base of every error that audio_lens raises on bad input."""


class SiteError(AudioLensError, LookupError):
    """A site name, layer or branch that does not exist, or cannot be used that way."""


class HookError(AudioLensError):
    """A hook or intervention wrote something that the site cannot hold."""


class InputError(AudioLensError):
    """Prompts, codes, seeds or settings that cannot be run."""


class UnknownWordWarning(UserWarning):
    """A prompt holds words that the checkpoint was never taught, so they steer nothing."""


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """What to say of a name that is not known: the nearest one, and all that there are.

    Example:
        >>> did_you_mean("tempi", ["tempo", "timbre"])
        "did you mean 'tempo'? there are tempo, timbre."
    """
    names = list(known)
    near = get_close_matches(str(given), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}there are {', '.join(names)}."
