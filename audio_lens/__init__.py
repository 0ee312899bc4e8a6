"""audio_lens: interpretability for music transformers.

Names are imported when first used, so that `import audio_lens` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audio_lens.analysis.attention import attention_by_lag as attention_by_lag
    from audio_lens.analysis.attention import attention_to_words as attention_to_words
    from audio_lens.analysis.directions import Direction as Direction
    from audio_lens.analysis.logit_attribution import logit_attribution as logit_attribution
    from audio_lens.analysis.logit_lens import early_exit as early_exit
    from audio_lens.analysis.logit_lens import logit_lens as logit_lens
    from audio_lens.analysis.poles import difference_in_means as difference_in_means
    from audio_lens.analysis.probe_sweep import probe_sweep as probe_sweep
    from audio_lens.analysis.probes import Probe as Probe
    from audio_lens.audio.clip import Clip as Clip
    from audio_lens.audio.melody import Prompt as Prompt
    from audio_lens.errors import AudioLensError as AudioLensError
    from audio_lens.errors import HookError as HookError
    from audio_lens.errors import InputError as InputError
    from audio_lens.errors import SiteError as SiteError
    from audio_lens.errors import UnknownWordWarning as UnknownWordWarning
    from audio_lens.lens import schedules as schedules
    from audio_lens.lens.cache import ActivationCache as ActivationCache
    from audio_lens.lens.intervention import Intervention as Intervention
    from audio_lens.lens.lens import AudioLens as AudioLens
    from audio_lens.lens.operations import add as add
    from audio_lens.lens.operations import clamp as clamp
    from audio_lens.lens.operations import project_out as project_out
    from audio_lens.lens.operations import replace as replace
    from audio_lens.lens.schedules import window as window
    from audio_lens.patching import metrics as metrics
    from audio_lens.patching.ablation import ablate as ablate
    from audio_lens.patching.activation import activation_patch as activation_patch
    from audio_lens.patching.attribution import agreement as agreement
    from audio_lens.patching.attribution import attribution_patch as attribution_patch
    from audio_lens.patching.donors import mean_of as mean_of
    from audio_lens.patching.grid import beats_of as beats_of
    from audio_lens.patching.grid import every_seconds as every_seconds
    from audio_lens.patching.path import path_patch as path_patch
    from audio_lens.patching.result import PatchingResult as PatchingResult
    from audio_lens.patching.sound import sound_patch as sound_patch

__version__ = "0.1.0"

_ROOMS = {"metrics": "patching.metrics", "schedules": "lens.schedules"}
_HOMES = {
    "PatchingResult": "patching.result",
    "ablate": "patching.ablation",
    "activation_patch": "patching.activation",
    "agreement": "patching.attribution",
    "attribution_patch": "patching.attribution",
    "beats_of": "patching.grid",
    "every_seconds": "patching.grid",
    "mean_of": "patching.donors",
    "path_patch": "patching.path",
    "sound_patch": "patching.sound",
    "ActivationCache": "lens.cache",
    "AudioLens": "lens.lens",
    "AudioLensError": "errors",
    "Clip": "audio.clip",
    "Direction": "analysis.directions",
    "Probe": "analysis.probes",
    "attention_by_lag": "analysis.attention",
    "attention_to_words": "analysis.attention",
    "early_exit": "analysis.logit_lens",
    "logit_attribution": "analysis.logit_attribution",
    "logit_lens": "analysis.logit_lens",
    "probe_sweep": "analysis.probe_sweep",
    "HookError": "errors",
    "InputError": "errors",
    "Intervention": "lens.intervention",
    "Prompt": "audio.melody",
    "SiteError": "errors",
    "UnknownWordWarning": "errors",
    "add": "lens.operations",
    "clamp": "lens.operations",
    "difference_in_means": "analysis.poles",
    "project_out": "lens.operations",
    "replace": "lens.operations",
    "window": "lens.schedules",
}

__all__ = sorted({*_HOMES, *_ROOMS})


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"audio_lens.{_ROOMS[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module 'audio_lens' has no attribute {name!r}")
    return getattr(import_module(f"audio_lens.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
