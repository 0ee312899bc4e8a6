"""Measure the toys and write their cards: `python -m audio_lens.toy.evaluate FOLDER ...`.

Each FOLDER is a trained toy (the packaged ones, when none is given). What is found goes into its
`evaluation.json`, what steering settled on into `choice.json`, and both, beside the training log,
into its model card. Parts that were measured before are kept unless they are asked for again.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from audio_lens.lens.loading import CHECKPOINTS

from . import _card
from ._listen import HEARD, codec_report, middle, obedience_report
from ._steer import SteeringSettings, steering_report

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


@dataclass(frozen=True)
class EvaluationSettings:
    """How much is heard."""

    codec_clips: int = 300
    prompts: int = 100
    seeds: int = 2
    seconds: float = 10.0
    steering: SteeringSettings = field(default_factory=SteeringSettings)


#: A rehearsal of every part; its numbers mean nothing.
QUICK = EvaluationSettings(
    codec_clips=4,
    prompts=2,
    seeds=1,
    seconds=2.0,
    steering=SteeringSettings(
        seconds=2.0, pairs=2, pool=8, scan_prompts=1, scan_strengths=(0.5,), strengths=(0.5,),
        finalists=1, dev_seeds=1, test_seeds=1, n_random=1,
    ),
)  # fmt: skip


def _codec(lens: "AudioLens", found: dict, settings: EvaluationSettings) -> dict:
    return codec_report(lens.hf_model.audio_encoder, settings.codec_clips, settings.seconds)


def _obedience(lens: "AudioLens", found: dict, settings: EvaluationSettings) -> dict:
    return obedience_report(lens, settings.prompts, settings.seeds, settings.seconds)


def _steering(lens: "AudioLens", found: dict, settings: EvaluationSettings) -> dict:
    if "obedience" not in found:
        raise SystemExit("steering is measured against prompted poles: measure obedience first")
    report = {}
    for concept, what in HEARD.items():
        poles = {
            sign: middle(found["obedience"][f"{concept} {sign}"]["values"][what]) for sign in "+-"
        }
        report[concept] = steering_report(lens, concept, poles, settings.steering)
    return report


PARTS: dict[str, Callable[["AudioLens", dict, EvaluationSettings], dict]] = {
    "codec": _codec,
    "obedience": _obedience,
    "steering": _steering,
}


def evaluate(folder: Path, settings: EvaluationSettings, again: Sequence[str] = ()) -> dict:
    """Measure what is missing (or asked for again), then write evaluation, choice and card."""
    from audio_lens.lens.lens import AudioLens

    file = folder / "evaluation.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    lens = AudioLens.from_pretrained(folder)
    for part, measure in PARTS.items():
        if part in found and part not in again:
            continue
        found[part] = measure(lens, found, settings)
        found["settings"] = asdict(settings)
        file.write_text(json.dumps(found, indent=1) + "\n")
    choices = {concept: _choice(report) for concept, report in found["steering"].items()}
    (folder / "choice.json").write_text(json.dumps(choices, indent=1) + "\n")
    log = json.loads((folder / "training.json").read_text())
    (folder / "README.md").write_text(_card.write(folder.name, log, found))
    return found


def _choice(report: dict) -> dict:
    """What was settled on, on dev prompts: way of steering and a coefficient for each sign."""
    choice = report["choice"]
    way = {name: choice[name] for name in ("strategy", "source_layer", "branch")}
    return way | {sign: choice["dev"][sign]["coefficient"] for sign in "+-"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description="Measure the toys and write their cards.")
    parser.add_argument("folders", nargs="*", type=Path, default=list(CHECKPOINTS.values()))
    parser.add_argument("--again", nargs="+", choices=PARTS, default=[], help="measure anew")
    parser.add_argument("--quick", action="store_true", help="a rehearsal of every part")
    options = parser.parse_args(arguments)
    for folder in options.folders:
        found = evaluate(folder, QUICK if options.quick else EvaluationSettings(), options.again)
        sys.stdout.write(f"{folder.name}: {json.dumps(found['steering'], indent=1)}\n")


if __name__ == "__main__":
    main()
