"""A generation: rows planned and checked before work begins, run group by group, made clips."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from audio_lens.audio.clip import Clip
from audio_lens.errors import InputError
from audio_lens.lens.decode import Sampling, decode
from audio_lens.lens.rows import Group, Prompts, as_prompts, as_seeds, group_rows, run_of
from audio_lens.lens.run import ordinary_tensors

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens

_DECODED_AT_ONCE = {"cpu": 1}
"""Clips that EnCodec turns into sound together, by device: on a CPU one at a time is fastest,
since its activations outgrow the caches, and 16 elsewhere."""


@dataclass(frozen=True)
class Generation:
    """Rows ready to be generated."""

    lens: "AudioLens"
    prompts: tuple[str | None, ...]
    seeds: tuple[int, ...]
    frames: int
    known: Int[Tensor, "batch codebook frame"]
    sampling: Sampling
    groups: list[Group]

    @classmethod
    def plan(
        cls,
        lens: "AudioLens",
        prompts: Prompts,
        *,
        seconds: float,
        seed: int | Sequence[int],
        sampling: Sampling,
        prefix: Any = None,
        row_group: int | None = None,
    ) -> "Generation":
        """Check everything that was asked for and lay out the rows."""
        frames = _frames(lens, seconds, as_prompts(prompts))
        known = None if prefix is None else _prefix_codes(lens, prefix, frames)
        n_rows = len(known) if known is not None and len(known) > 1 else None
        one_prompt = prompts is None or isinstance(prompts, str)
        if n_rows is None and one_prompt and isinstance(seed, Sequence):
            n_rows = len(seed)
        prompts = as_prompts(prompts, n_rows)
        n_rows = len(prompts)
        if known is None:
            known = torch.zeros(1, lens.cfg.n_codebooks, 0, dtype=torch.long)
        known = known.to(lens.cfg.device).expand(n_rows, -1, -1)
        groups = group_rows(prompts, row_group, lens._conditioner)
        return cls(lens, prompts, as_seeds(seed, n_rows), frames, known, sampling, groups)

    def run(self, *, progress: bool) -> list[Clip]:
        """The clips, in order of rows."""
        return self._clips(self.codes(progress=progress))

    def codes(self, *, progress: bool) -> Int[Tensor, "batch codebook frame"]:
        """The codes alone, for those who want activations and no sound."""
        from tqdm.auto import tqdm

        steps = self.lens.delay.n_positions(self.frames) - self.known.shape[-1]
        codes: dict[int, Tensor] = {}
        with tqdm(
            total=steps * len(self.groups),
            desc=f"generating {len(self.prompts)} x {self.frames / self.lens.cfg.frame_rate:g} s",
            disable=not progress,
            leave=False,
            unit="step",
        ) as bar:
            for group in self.groups:
                made = self._run_group(group, bar.update)
                codes |= dict(zip(group.rows, made, strict=False))
        return torch.stack([codes[row] for row in range(len(self.prompts))])

    @torch.no_grad()
    def _run_group(self, group: Group, tick: Any) -> Int[Tensor, "row codebook frame"]:
        lens = self.lens
        scale = self.sampling.guidance_scale
        run = run_of(
            group,
            self.prompts,
            scale,
            pattern=lens.delay,
            n_positions=lens.delay.n_positions(self.frames),
        )
        grid = lens.delay.grid(torch.stack(group.pad(self.known)), self.frames)
        with ordinary_tensors(), lens._engine.running(run):
            conditions = lens._conditioner.encode(
                group.pad(self.prompts), run, length=group.text_length
            )
            return decode(
                lens._module.decoder,
                conditions,
                grid,
                run=run,
                seeds=group.pad(self.seeds),
                sampling=self.sampling,
                pattern=lens.delay,
                tick=tick,
            )

    def _clips(self, codes: Int[Tensor, "batch codebook frame"]) -> list[Clip]:
        lens = self.lens
        waveforms = decode_codes(lens, codes)
        settings = {
            "model": lens.cfg.model_name,
            "seconds": self.frames / lens.cfg.frame_rate,
            **asdict(self.sampling),
            "transformers": version("transformers"),
            "torch": torch.__version__,
        }
        return [
            Clip(
                waveform=waveform,
                sample_rate=lens.cfg.sample_rate,
                codes=row_codes,
                prompt=self.prompts[row],
                seed=self.seeds[row],
                interventions=lens._engine.labels(row),
                settings=settings,
            )
            for row, (waveform, row_codes) in enumerate(zip(waveforms, codes.cpu(), strict=True))
        ]


@torch.no_grad()
def decode_codes(lens: "AudioLens", codes: Int[Tensor, "batch codebook frame"]) -> list[Tensor]:
    """Waveforms `[channel sample]` of codes, on the CPU in float32."""
    codec, channels = lens._module.audio_encoder, lens.cfg.audio_channels
    waveforms: list[Tensor] = []
    for part in codes.split(_DECODED_AT_ONCE.get(codes.device.type, 16)):
        # Stereo codebooks take turns: left, right, left, right.
        sides = [part[:, channel::channels] for channel in range(channels)]
        values = [codec.decode(s[None], audio_scales=[None] * len(s)).audio_values for s in sides]
        waveforms += torch.cat(values, dim=1).float().cpu().unbind()
    return waveforms


def _frames(lens: "AudioLens", seconds: float, prompts: Sequence[str | None]) -> int:
    if not isinstance(seconds, int | float) or not seconds > 0:
        raise InputError(f"seconds must be above 0, got {seconds!r}.")
    frames = lens.delay.frames(seconds)
    if frames < 1:
        raise InputError(
            f"{seconds} s is shorter than one frame ({1 / lens.cfg.frame_rate:g} s): ask for more."
        )
    room = lens.cfg.n_ctx - max(lens._conditioner.n_prefix(prompt) for prompt in prompts)
    if lens.delay.n_positions(frames) > room:
        most = (room - max(lens.cfg.delays)) / lens.cfg.frame_rate
        raise InputError(
            f"{seconds} s exceed what the model has positions for: at most {most:.2f} s, the "
            f"prompt's own positions taken off."
        )
    return frames


def _prefix_codes(lens: "AudioLens", prefix: Any, frames: int) -> Tensor:
    codes = prefix if isinstance(prefix, Tensor) else lens.encode(prefix)
    lens.delay.check_codes(codes, name="prefix")
    if codes.shape[-1] >= frames:
        rate = lens.cfg.frame_rate
        raise InputError(
            f"the prefix lasts {codes.shape[-1] / rate:g} s and the clip {frames / rate:g} s, "
            f"prefix included: ask for more seconds, or a shorter prefix."
        )
    return codes
