"""Train the toys from nothing, on a CPU: `python -m audio_lens.toy.train --out FOLDER`.

Three parts, each in its own folder under FOLDER: `codec`, learned from synthesised clips; then
`toy` and `toy-melody`, decoders of the two families, learned from the codec's codes and the
clips' captions. The second begins with what the first has learned, but for the cross-attention that
it does not have. A part that lies finished is kept, and one that was stopped is gone on with. The
same settings on the same machine give the same weights; `training.json` in each folder keeps
settings, losses and seconds. What the toys are worth, `python -m audio_lens.toy.evaluate` measures.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import EncodecModel
from transformers import __version__ as transformers_version

from audio_lens.audio.synthesis import SAMPLE_RATE

from . import _codec, _data, _storage, _text
from ._language_model import LanguageModelSettings, Material, Phase, train_language_model
from ._models import ToyModel, build_model

#: Folder of each part and, for the decoders, its family.
PARTS = {"codec": None, "toy": "cross", "toy-melody": "melody"}


@dataclass(frozen=True)
class Plan:
    """Everything a run is made of."""

    clips: int = 4000
    codec_clips: int = 1000
    held_out_clips: int = 200
    seconds: float = 10.0
    codec: _codec.CodecSettings = field(default_factory=_codec.CodecSettings)
    language_model: LanguageModelSettings = field(default_factory=LanguageModelSettings)
    melody: LanguageModelSettings = field(
        default_factory=lambda: LanguageModelSettings(
            phases=(Phase(2000, 250, 16), Phase(1000, 500, 8)), learning_rate=2e-3
        )
    )
    """Shorter, since the melody toy begins where the other ended."""

    def language_model_of(self, family: str) -> LanguageModelSettings:
        """How a family is trained."""
        return self.melody if family == "melody" else self.language_model


#: A rehearsal of every stage in under a minute; its toys obey nothing.
QUICK = Plan(
    clips=24,
    codec_clips=24,
    held_out_clips=8,
    seconds=2.0,
    codec=_codec.CodecSettings(continuous_steps=4, quantized_steps=4, batch=4),
    language_model=LanguageModelSettings(phases=(Phase(3, 50, 4), Phase(2, 80, 2)), warmup=2),
    melody=LanguageModelSettings(phases=(Phase(2, 80, 2),), warmup=2),
)


def train_codec(out: Path, plan: Plan, workers: int) -> None:
    """Train the codec and save it."""
    began = time.time()
    clips = _data.synthesise(range(plan.codec_clips), plan.seconds, workers)
    torch.manual_seed(plan.codec.seed)
    codec = _codec.build_codec()
    log = _codec.train_codec(codec, torch.from_numpy(clips), plan.codec)
    _storage.round_to_half(codec)
    codec.save_pretrained(out)
    _write_log(out, {"clips": plan.codec_clips, **log, "seconds": round(time.time() - began)}, plan)


def train_toy(out: Path, family: str, folder: Path, plan: Plan, workers: int) -> None:
    """Train a decoder and its text encoder around a codec, and save them with the tokenizer.

    folder: of the trained codec. The melody family begins with the weights of the toy beside `out`.
    """
    settings = plan.language_model_of(family)
    seeds = range(_data.FIRST_HELD_OUT_SEED, _data.FIRST_HELD_OUT_SEED + plan.held_out_clips)
    kept = out.parent / "clips.safetensors"
    learned = _data.material(folder, range(plan.clips), plan.seconds, workers, kept)
    held_out = _data.material(folder, seeds, plan.seconds, workers)
    if family == "cross":
        learned = Material(learned.codes, learned.recipes)
    # transformers' processor for melodies needs torchaudio: that toy keeps its tokenizer alone.
    processor = _text.build_processor(SAMPLE_RATE) if family == "cross" else None
    tokenizer = _text.build_tokenizer() if processor is None else processor.tokenizer
    torch.manual_seed(settings.seed)
    model = build_model(family, EncodecModel.from_pretrained(folder), len(tokenizer))
    if family == "melody":
        begin_with(model, out.parent / "toy")
    unfinished = out / "unfinished.safetensors"
    log = train_language_model(model, tokenizer, learned, held_out, settings, unfinished)
    _storage.round_to_half(model)
    _storage.save(model, processor or tokenizer, out)
    codec_log = json.loads((folder / "training.json").read_text())
    _write_log(out, {"clips": plan.clips, **log, "codec": codec_log}, plan)


def begin_with(model: ToyModel, folder: Path) -> None:
    """Take over every weight of a trained toy that has the same name and shape."""
    own = model.state_dict()
    for name, weight in load_file(folder / "model.safetensors").items():
        if name in own and own[name].shape == weight.shape:
            own[name] = weight.to(own[name].dtype)
    model.load_state_dict(own)


def _write_log(out: Path, log: dict, plan: Plan) -> None:
    log |= {
        "clip_seconds": plan.seconds,
        "versions": {"torch": torch.__version__, "transformers": transformers_version},
    }
    (out / "training.json").write_text(json.dumps(log, indent=1) + "\n")


def run(out: Path, plan: Plan, *, parts: Sequence[str], workers: int) -> None:
    """Train the parts that do not lie finished in `out`."""
    for part in parts:
        folder, family = out / part, PARTS[part]
        if (folder / "training.json").is_file():
            continue
        if family is None:
            train_codec(folder, plan, workers)
            continue
        if not (out / "codec" / "training.json").is_file():
            raise SystemExit(f"{part} needs a codec in {out / 'codec'}: train the codec first")
        if family == "melody" and not (out / "toy" / "training.json").is_file():
            raise SystemExit(f"{part} begins with the toy in {out / 'toy'}: train that first")
        train_toy(folder, family, out / "codec", plan, workers)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description="Train the toy MusicGens on a CPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="a rehearsal of every stage")
    parser.add_argument("--workers", type=int, default=2, help="processes that synthesise")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    run(options.out, plan, parts=options.parts, workers=options.workers)


if __name__ == "__main__":
    main()
