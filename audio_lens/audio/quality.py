"""The quality guard: whether a steered clip is still music beside its unsteered twin.

Steering that goes too far ends in silence, noise, a stuck frame or clipping, and each of them moves
tempo or brightness too. So every clip passes the guard before its effect counts. What is normal for
a model is learnt from a pool of its unsteered clips, together with clips that were prompted at the
pole; what is broken in any model is fixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.audio.beat import beat_bpm
from audio_lens.audio.level import clipped_fraction, loudness, silent_fraction
from audio_lens.audio.repetition import loop_score
from audio_lens.audio.tempo import pulse_bpm
from audio_lens.audio.timbre import flatness
from audio_lens.audio.waveform import as_mono
from audio_lens.errors import InputError

SHORTEST_SECONDS = 2.0
_FEWEST_IN_POOL = 20


@dataclass(frozen=True)
class Vitals:
    """What the guard looks at in one clip."""

    silent: float
    """Share of silent frames."""
    clipped: float
    """Share of clipped samples."""
    loudness: float
    """LUFS; -inf for silence."""
    flatness: float
    loop: float
    """Share of frames that repeat, see `loop_score`."""
    pulse: float
    """BPM below 160 Hz, NaN without a pulse."""
    beat: float
    """BPM of the full band, NaN without a beat."""
    log_probability: tuple[float, ...] = ()
    """Mean log-probability of the codes of each codebook in nats; empty where not measured."""


def vitals(audio: Any, sample_rate: int, log_probability: Sequence[float] = ()) -> Vitals:
    """Measure what the guard looks at.

    audio: float [sample] or [channel sample], 2 s at least; log_probability: of the clip's codes
    under the unsteered model, by codebook, from `code_log_probability`. Raises InputError for a
    malformed array or a shorter clip.

    >>> vitals(np.zeros(32000), 16000).silent
    1.0
    """
    if len(as_mono(audio, sample_rate)) < SHORTEST_SECONDS * sample_rate:
        raise InputError(
            f"the clip is shorter than {SHORTEST_SECONDS:g} s: too short to judge; generate more"
        )
    return Vitals(
        silent=silent_fraction(audio, sample_rate),
        clipped=clipped_fraction(audio, sample_rate),
        loudness=loudness(audio, sample_rate),
        flatness=flatness(audio, sample_rate),
        loop=loop_score(audio, sample_rate),
        pulse=pulse_bpm(audio, sample_rate),
        beat=beat_bpm(audio, sample_rate),
        log_probability=tuple(float(value) for value in log_probability),
    )


def code_log_probability(
    logits: Float[Tensor, "batch codebook frame code"], codes: Int[Tensor, "batch codebook frame"]
) -> Float[Tensor, "batch codebook"]:
    """Mean log-probability of codes in nats, by clip and codebook.

    logits: of the unsteered model under the neutral prompt, without guidance, aligned to codes, as
    `lens(prompts, codes)` returns them. Raises InputError where the shapes do not belong together.

    >>> import math, torch
    >>> even = code_log_probability(torch.zeros(1, 4, 9, 256), torch.zeros(1, 4, 9).long())
    >>> even.shape, round(float(even[0, 0] + math.log(256)), 5)
    (torch.Size([1, 4]), 0.0)
    """
    if logits.shape[:-1] != codes.shape:
        raise InputError(
            f"logits {tuple(logits.shape)} are not of codes {tuple(codes.shape)}: expected "
            "[batch, codebook, frame, code] of the same clips"
        )
    chosen = logits.float().log_softmax(-1).gather(-1, codes[..., None])
    return chosen[..., 0].mean(-1)


@dataclass(frozen=True)
class Limits:
    """Where the guard draws its lines; `from_pool` learns those that depend on the model.

    Without a pool, flatness and loop are set to catch no more than noise and standing sound, and
    codes are not judged.
    """

    silent: float = 0.2
    clipped: float = 0.001
    level: float = 12.0
    """Largest difference in loudness from the twin, in dB."""
    flatness: float = 0.1
    loop: float = 0.95
    log_probability: tuple[tuple[float, float], ...] = ()
    """Lowest and highest by codebook."""

    @classmethod
    def from_pool(cls, pool: Sequence[Vitals], share: float = 0.01, **fixed: float) -> "Limits":
        """Limits that `share` of the pool is beyond: flatness, loop, and codes at both ends.

        Codebooks are judged together, so that many of them do not make many alarms. `fixed` sets
        `silent`, `clipped` or `level`.

        Raises InputError for fewer than 20 clips, a share outside 0 to 0.5, or clips of which only
        some have log-probabilities.
        """
        if len(pool) < _FEWEST_IN_POOL:
            raise InputError(
                f"{len(pool)} clips are too few to tell what is normal: pool at least "
                f"{_FEWEST_IN_POOL} unsteered clips"
            )
        if not 0 < share < 0.5:
            raise InputError(f"share={share}: expected a share between 0 and 0.5, such as 0.01")
        if len({len(clip.log_probability) for clip in pool}) > 1:
            raise InputError("only some clips of the pool have log-probabilities: give all or none")
        table = np.array([clip.log_probability for clip in pool])
        return cls(
            flatness=_upper([clip.flatness for clip in pool], share),
            loop=_upper([clip.loop for clip in pool], share),
            log_probability=_bands(table, 2 * share),
            **fixed,
        )


def _bands(
    table: Float[np.ndarray, "clip codebook"], share: float
) -> tuple[tuple[float, float], ...]:
    """Lowest and highest by codebook, so that `share` of the clips is outside of any of them.

    All ends lie equally far out, in units of the spread on their side. A quantile for each end
    would be the very extremes of a pool of some hundred clips, and a new clip is beyond one of
    eight extremes far more often than beyond one.
    """
    if not table.shape[1]:
        return ()
    middle = np.median(table, axis=0)
    spread = np.abs(np.quantile(table, [0.1, 0.9], axis=0) - middle)
    below, above = np.where(spread > 0, spread, spread[::-1])  # a side without any has the other's
    off = table - middle
    units = np.where(off > 0, above, below)
    far = np.divide(np.abs(off), units, out=np.zeros_like(off), where=units > 0)
    reach = _upper(far.max(axis=1), share)
    return tuple(
        zip((middle - reach * below).tolist(), (middle + reach * above).tolist(), strict=True)
    )


def _upper(values: Any, share: float) -> float:
    """The value that at most `share` are above, among those there are."""
    known = np.asarray(values)[~np.isnan(values)]
    return float(np.quantile(known, 1 - share, method="higher")) if len(known) else np.inf


@dataclass(frozen=True)
class Verdict:
    """What the guard says: passed, or which rules failed and why."""

    failures: dict[str, str]
    """Rule to reason, in words; empty where the clip passes."""

    @property
    def passed(self) -> bool:
        """Whether no rule failed."""
        return not self.failures

    def __str__(self) -> str:
        return "; ".join(f"{rule}: {why}" for rule, why in self.failures.items()) or "passed"


def quality_guard(
    clip: Vitals,
    twin: Vitals,
    limits: Limits | None = None,
    *,
    tempo: Literal["pulse", "beat"] | None = None,
) -> Verdict:
    """Whether a steered clip is still music, against its unsteered twin.

    Rules: `silent`, `clipped`, `level` (against the twin), `flatness` (noise), `loop` (a stuck
    frame or loop), `codes` (too unlikely or too likely under the unsteered model, where limits and
    clip know that) and, where a tempo is to be read, `tempo`. Raises InputError where limits and
    clip have other numbers of codebooks.

    >>> t = np.arange(8 * 16000) / 16000
    >>> twin = vitals(0.1 * np.sin(2 * np.pi * 440 * t * (1 + t)) * (t % 1), 16000)
    >>> print(", ".join(quality_guard(vitals(0 * t, 16000), twin).failures))
    silent, level
    """
    limits = limits or Limits()
    failures: dict[str, str] = {}
    if clip.silent > limits.silent:
        failures["silent"] = (
            f"{clip.silent:.0%} of frames are silent, at most {limits.silent:.0%} may be"
        )
    if clip.clipped > limits.clipped:
        failures["clipped"] = (
            f"{clip.clipped:.1%} of samples are clipped, at most {limits.clipped:.1%} may be"
        )
    if not abs(clip.loudness - twin.loudness) <= limits.level:
        failures["level"] = (
            f"{clip.loudness:.1f} LUFS, more than {limits.level:g} dB from the twin's "
            f"{twin.loudness:.1f} LUFS"
        )
    if clip.flatness > limits.flatness:
        failures["flatness"] = f"{clip.flatness:.3f}, at most {limits.flatness:.3f}: noise"
    if clip.loop > limits.loop:
        failures["loop"] = f"{clip.loop:.0%} of frames repeat, at most {limits.loop:.0%} may"
    if (codes := _codes_failure(clip, limits)) is not None:
        failures["codes"] = codes
    if tempo is not None and np.isnan(getattr(clip, tempo)):
        failures["tempo"] = f"no {tempo} is clear enough to read a tempo"
    return Verdict({rule: why.replace("%", " %") for rule, why in failures.items()})


def _codes_failure(clip: Vitals, limits: Limits) -> str | None:
    if not clip.log_probability or not limits.log_probability:
        return None
    if len(clip.log_probability) != len(limits.log_probability):
        raise InputError(
            f"the clip has log-probabilities of {len(clip.log_probability)} codebooks, the limits "
            f"of {len(limits.log_probability)}: measure both with the same model"
        )
    bands = zip(clip.log_probability, limits.log_probability, strict=True)
    for codebook, (value, (low, high)) in enumerate(bands):
        if not low <= value <= high:
            return (
                f"codebook {codebook} has a mean log-probability of {value:.2f} nats, outside "
                f"{low:.2f} to {high:.2f}"
            )
    return None
