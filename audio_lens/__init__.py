"""audio_lens: interpretability for music transformers.

Names are imported when first used, so that `import audio_lens` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audio_lens.analysis.directions import Direction as Direction
    from audio_lens.analysis.directions import difference_in_means as difference_in_means
    from audio_lens.audio.clip import Clip as Clip
    from audio_lens.audio.melody import Prompt as Prompt
    from audio_lens.errors import AudioLensError as AudioLensError
    from audio_lens.errors import HookError as HookError
    from audio_lens.errors import InputError as InputError
    from audio_lens.errors import SiteError as SiteError
    from audio_lens.lens.cache import ActivationCache as ActivationCache
    from audio_lens.lens.intervention import Intervention as Intervention
    from audio_lens.lens.intervention import add as add
    from audio_lens.lens.intervention import project_out as project_out
    from audio_lens.lens.intervention import replace as replace
    from audio_lens.lens.intervention import window as window
    from audio_lens.lens.lens import AudioLens as AudioLens

__version__ = "0.1.0"

_HOMES = {
    "ActivationCache": "lens.cache",
    "AudioLens": "lens.lens",
    "AudioLensError": "errors",
    "Clip": "audio.clip",
    "Direction": "analysis.directions",
    "HookError": "errors",
    "InputError": "errors",
    "Intervention": "lens.intervention",
    "Prompt": "audio.melody",
    "SiteError": "errors",
    "add": "lens.intervention",
    "difference_in_means": "analysis.directions",
    "project_out": "lens.intervention",
    "replace": "lens.intervention",
    "window": "lens.intervention",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'audio_lens' has no attribute {name!r}")
    return getattr(import_module(f"audio_lens.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
