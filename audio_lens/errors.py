"""The errors and warnings users meet: each names the culprit, what was expected, what to do."""


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
