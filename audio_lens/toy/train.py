"""Train the toy from nothing, on a CPU: `python -m audio_lens.toy.train --out FOLDER`.

Clips are synthesised, a codec is trained on them, a text encoder is taught to read captions, a
decoder is trained on codes and captions, and the result is measured. The same settings on the same
machine give the same weights. Beside the checkpoint lie `training.json` (settings, losses,
seconds, measured numbers) and a model card written from it.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import MusicgenForConditionalGeneration
from transformers import __version__ as transformers_version

from audio_lens.audio.synthesis import SAMPLE_RATE, draw
from audio_lens.lens.config import HFModule

from . import _card, _codec, _data, _evaluate, _storage, _text
from ._language_model import LanguageModelSettings, Phase, build_model, train_language_model
from ._reading import ReadingSettings, teach_reading


@dataclass(frozen=True)
class Plan:
    """Everything a run is made of."""

    clips: int = 3000
    codec_clips: int = 600
    seconds: float = 10.0
    codec: _codec.CodecSettings = field(default_factory=_codec.CodecSettings)
    reading: ReadingSettings = field(default_factory=ReadingSettings)
    language_model: LanguageModelSettings = field(default_factory=LanguageModelSettings)
    codec_test_clips: int = 300
    prompts: int = 24
    test_seconds: int = 8


#: A rehearsal of every stage in under a minute; its toy obeys nothing.
QUICK = Plan(
    clips=24,
    codec_clips=24,
    seconds=2.0,
    codec=_codec.CodecSettings(continuous_steps=4, quantized_steps=4, batch=4),
    reading=ReadingSettings(steps=5, batch=8),
    language_model=LanguageModelSettings(phases=(Phase(3, 50, 4), Phase(2, 80, 2)), warmup=2),
    codec_test_clips=4,
    prompts=2,
    test_seconds=1,
)


@dataclass(frozen=True)
class _Earlier:
    """What an earlier run left behind."""

    model: MusicgenForConditionalGeneration
    log: dict

    @classmethod
    def read(cls, folder: Path) -> "_Earlier":
        model = MusicgenForConditionalGeneration.from_pretrained(folder)
        return cls(model, json.loads((folder / "training.json").read_text()))


def _codec_stage(
    plan: Plan, clips: Float[Tensor, "clip sample"], earlier: _Earlier | None
) -> tuple[HFModule, dict]:
    """A trained codec: that of an earlier run, or trained here on the first clips."""
    if earlier is not None:
        return earlier.model.audio_encoder, earlier.log["codec"]
    torch.manual_seed(plan.codec.seed)
    codec = _codec.build_codec()
    began = time.time()
    log = _codec.train_codec(codec, clips[: plan.codec_clips], plan.codec)
    _storage.round_to_half(codec)
    log["seconds"] = round(time.time() - began)
    log["measured"] = _evaluate.codec_report(codec, plan.codec_test_clips, plan.test_seconds)
    return codec, log


def run(out: Path, plan: Plan, *, start: Path | None, resume: bool, workers: int) -> dict:
    """Train, measure and save; returns the log that was written beside the checkpoint.

    start: folder of an earlier run whose codec is kept; with `resume`, its decoder and text
    encoder are trained further too.
    """
    began = time.time()
    earlier = _Earlier.read(start) if start is not None else None
    clips = torch.from_numpy(_data.synthesise(plan.clips, plan.seconds, workers))
    codec, codec_log = _codec_stage(plan, clips, earlier)
    codes = _codec.encode(codec, clips)
    recipes = [draw(seed) for seed in range(plan.clips)]
    processor = _text.build_processor(SAMPLE_RATE)
    torch.manual_seed(plan.language_model.seed)
    if earlier is not None and resume:
        model, reading = earlier.model, earlier.log["reading"]
        stages = earlier.log["language_model"]
    else:
        model, stages = build_model(codec, len(processor.tokenizer)), []
        reading = teach_reading(model.text_encoder, processor.tokenizer, recipes, plan.reading)
    stage = train_language_model(model, processor.tokenizer, codes, recipes, plan.language_model)
    _storage.round_to_half(model)
    _storage.save(model, processor, out)
    log = {
        "clips": plan.clips,
        "clip_seconds": plan.seconds,
        "codec": codec_log,
        "reading": reading,
        "language_model": [*stages, stage],
        "measured": _evaluate.obedience_report(model, processor, plan.prompts, plan.test_seconds),
        "seconds": round(time.time() - began),
        "versions": {"torch": torch.__version__, "transformers": transformers_version},
    }
    _write_json(out / "training.json", log)
    (out / "README.md").write_text(_card.write(log))
    return log


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="Train the toy MusicGen on a CPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--quick", action="store_true", help="a rehearsal of every stage")
    parser.add_argument("--start", type=Path, help="folder of an earlier run: keep its codec")
    parser.add_argument("--resume", action="store_true", help="keep its language model as well")
    parser.add_argument("--workers", type=int, default=2, help="processes that synthesise")
    options = parser.parse_args(arguments)
    if options.resume and options.start is None:
        parser.error("--resume needs --start FOLDER, the run to go on from")
    plan = QUICK if options.quick else Plan()
    log = run(
        options.out, plan, start=options.start, resume=options.resume, workers=options.workers
    )
    sys.stdout.write(json.dumps(log["measured"], indent=1) + "\n")


if __name__ == "__main__":
    main()
