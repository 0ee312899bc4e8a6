"""Train the toys from nothing, on a CPU: `python -m audio_lens.toy.train --out FOLDER`.

Four parts, each in its own folder under FOLDER: `codec`, learned from synthesised clips; then
`toy`, `melody-first` and `toy-melody`, decoders of the two families, learned from the codec's codes
and the clips' captions. Each of the last two begins with what the one before has learned, the first
of them without the cross-attention that it does not have. A part that lies finished is kept, and
one that was stopped is gone on with. The same settings on the same machine give the same weights;
`training.json` in each folder keeps settings, losses and seconds. What the toys are worth,
`python -m audio_lens.toy.evaluate` measures.
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


@dataclass(frozen=True)
class Part:
    """A decoder to be trained: its family, and the part whose weights it begins with."""

    family: str
    begins_with: str | None = None


DECODERS = {
    "toy": Part("cross"),
    "melody-first": Part("melody", begins_with="toy"),
    "toy-melody": Part("melody", begins_with="melody-first"),
}
PARTS = ("codec", *DECODERS)


def _language_models() -> dict[str, LanguageModelSettings]:
    """How each decoder is trained: the melody ones shorter, since they begin where one ended."""
    return {
        "toy": LanguageModelSettings(
            phases=(Phase(3000, 120, 32), Phase(4000, 250, 16), Phase(2000, 500, 8))
        ),
        "melody-first": LanguageModelSettings(
            phases=(Phase(2000, 250, 16), Phase(1000, 500, 8)), learning_rate=2e-3
        ),
        "toy-melody": LanguageModelSettings(
            phases=(Phase(1200, 120, 32), Phase(800, 250, 16), Phase(600, 500, 8)),
            learning_rate=2e-3,
            seed=1,
        ),
    }


@dataclass(frozen=True)
class Plan:
    """Everything a run is made of."""

    clips: int = 4000
    codec_clips: int = 1000
    held_out_clips: int = 200
    seconds: float = 10.0
    codec: _codec.CodecSettings = field(default_factory=_codec.CodecSettings)
    language_models: dict[str, LanguageModelSettings] = field(default_factory=_language_models)


#: A rehearsal of every stage in under a minute; its toys obey nothing.
QUICK = Plan(
    clips=24,
    codec_clips=24,
    held_out_clips=8,
    seconds=2.0,
    codec=_codec.CodecSettings(continuous_steps=4, quantized_steps=4, batch=4),
    language_models=dict.fromkeys(
        DECODERS, LanguageModelSettings(phases=(Phase(3, 50, 4), Phase(2, 80, 2)), warmup=2)
    ),
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


def train_decoder(out: Path, plan: Plan, workers: int) -> None:
    """Train a decoder and its text encoder, and save them with the tokenizer.

    out: its folder, of a name in `DECODERS`; the codec, and what it begins with, lie beside it.
    """
    part, settings = DECODERS[out.name], plan.language_models[out.name]
    codec, family = out.parent / "codec", part.family
    seeds = range(_data.FIRST_HELD_OUT_SEED, _data.FIRST_HELD_OUT_SEED + plan.held_out_clips)
    kept = out.parent / "clips.safetensors"
    learned = _data.material(codec, range(plan.clips), plan.seconds, workers, kept)
    held_out = _data.material(codec, seeds, plan.seconds, workers)
    if family == "cross":
        learned = Material(learned.codes, learned.recipes)
    # transformers' processor for melodies needs torchaudio: that toy keeps its tokenizer alone.
    processor = _text.build_processor(SAMPLE_RATE) if family == "cross" else None
    tokenizer = _text.build_tokenizer() if processor is None else processor.tokenizer
    torch.manual_seed(settings.seed)
    model = build_model(family, EncodecModel.from_pretrained(codec), len(tokenizer))
    log: dict = {"clips": plan.clips}
    if part.begins_with:
        begin_with(model, out.parent / part.begins_with)
        log["begins_with"] = _before(out.parent / part.begins_with)
    unfinished = out / "unfinished.safetensors"
    log |= train_language_model(model, tokenizer, learned, held_out, settings, unfinished)
    _storage.round_to_half(model)
    _storage.save(model, processor or tokenizer, out)
    _write_log(out, log | {"codec": _log_of(codec)}, plan)


def _log_of(folder: Path) -> dict:
    return json.loads((folder / "training.json").read_text())


def _before(folder: Path) -> dict:
    """What training that is built upon took: its name, steps and seconds, and all before it."""
    log = _log_of(folder)
    steps = sum(phase["steps"] for phase in log["settings"]["phases"])
    return {"name": folder.name, "steps": steps, "seconds": log["seconds"]} | {
        key: log[key] for key in ("begins_with",) if key in log
    }


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
        folder = out / part
        if _finished(folder):
            continue
        if part == "codec":
            train_codec(folder, plan, workers)
            continue
        if not _finished(out / "codec"):
            raise SystemExit(f"{part} needs a codec in {out / 'codec'}: train the codec first")
        before = DECODERS[part].begins_with
        if before and not _finished(out / before):
            raise SystemExit(f"{part} begins with what lies in {out / before}: train that first")
        train_decoder(folder, plan, workers)


def _finished(folder: Path) -> bool:
    return (folder / "training.json").is_file()


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
