"""Measure the toys and write their cards: `python -m audio_lens.toy.evaluate FOLDER ...`.

Each FOLDER is a trained toy (the packaged ones, when none is given). What is found goes into its
`evaluation.json`, what steering settled on into `choice.json`, and both, beside the training log,
into its model card. Parts that were measured before on the same weights are kept unless they are
asked for again.
Steering is measured by whole studies, which go on with what lies in `--studies`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from audio_lens.errors import InputError
from audio_lens.lens.loading import CHECKPOINTS
from audio_lens.provenance import weights_sha256
from audio_lens.recipes.concept import CONCEPTS
from audio_lens.recipes.study.beside import scatter
from audio_lens.recipes.study.ledger import kept_settings
from audio_lens.recipes.study.settings import StudySettings
from audio_lens.recipes.study.study import Study

from . import _card
from ._listen import codec_report, melody_report, obedience_report

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


@dataclass(frozen=True)
class EvaluationSettings:
    """How much is heard."""

    codec_clips: int = 300
    melodies: int = 96
    prompts: int = 100
    seeds: int = 2
    seconds: float = 10.0
    quick: bool = False
    """Whether it is a rehearsal; its numbers mean nothing."""

    def study(self, lens: "AudioLens") -> StudySettings:
        """A melody model is steered as arXiv 2504.04479 did: from the end of the text, one layer's
        vector at every layer of the residual stream, in both halves. Its rows run in small groups,
        since those of other text lengths run apart."""
        whole = StudySettings.quick() if self.quick else StudySettings()
        if not lens.cfg.chroma_length:
            return whole
        return replace(
            whole, pool="end_of_text", sites=("resid_post",), strategies=("one_to_all",),
            branches=("both",), rows_at_once=8,
        )  # fmt: skip


QUICK = EvaluationSettings(codec_clips=4, melodies=2, prompts=2, seeds=1, seconds=2.0, quick=True)


def _codec(lens: "AudioLens", settings: EvaluationSettings, studies: Path) -> dict:
    return codec_report(lens.hf_model.audio_encoder, settings.codec_clips, settings.seconds)


def _obedience(lens: "AudioLens", settings: EvaluationSettings, studies: Path) -> dict:
    return obedience_report(lens, settings.prompts, settings.seeds, settings.seconds)


def _melody(lens: "AudioLens", settings: EvaluationSettings, studies: Path) -> dict | None:
    return melody_report(lens, settings.melodies, 6.0) if lens.cfg.chroma_length else None


def _steering(lens: "AudioLens", settings: EvaluationSettings, studies: Path) -> dict:
    report = {}
    for concept in CONCEPTS.values():
        out = _folder(studies, lens, concept.name)
        asked = _gone_on_with(out, settings.study(lens))
        report[concept.name] = _summary(concept.study(lens, out, settings=asked))
    return report


def _folder(studies: Path, lens: "AudioLens", concept: str) -> Path:
    return studies / f"{Path(lens.cfg.model_name).name}-{concept}"


_SAME = ("rehearsal", "pool", "sites", "strategies", "branches")
"""What a study that was begun must have as asked; it may hear less, which the card then says."""


def _gone_on_with(out: Path, asked: StudySettings) -> StudySettings:
    """The settings of the study in a folder, if it is of the kind that is asked for."""
    kept = kept_settings(out)
    if kept is None:
        return asked
    begun = StudySettings.of_json(kept)
    for name in _SAME:
        if getattr(begun, name) != getattr(asked, name):
            raise InputError(
                f"{out} holds a study with {name}={getattr(begun, name)!r}, wanted is "
                f"{getattr(asked, name)!r}: give another folder as --studies."
            )
    return begun


BESIDE = ("register", "flatness", "loudness")
"""What a card tells beside tempo and brightness: a brighter clip may be higher, noisier, louder."""

RANDOM = ("isotropic", "matched")
"""Kinds of controls that are random directions."""


def _summary(study: Study) -> dict:
    """What a card says of a study: the primary results, and random directions beside them."""
    dose, settings = study.dose_response, study.settings
    scattered = scatter(study.rows, study.concept, n_seeds=settings.control_seeds)
    kinds = [kind for kind in RANDOM if kind in settings.control_kinds]
    random = {kind: study.stand_beside(kind) for kind in kinds}
    passed = dose.table.set_index("coefficient")["passed"]
    kept = ("pool", "seconds", "test_seeds", "random_draws", "control_seeds", "dropped",
            "scan_nats")  # fmt: skip
    beside = study.side_effects.set_index(["sign", "measure"])
    return {
        "unit": study.concept.change_unit,
        "settings": {name: getattr(settings, name) for name in kept}
        | {"test_prompts": len(study.concept.test)},
        "choice": study.choice.as_json(),
    } | {
        sign: {
            "coefficient": side.coefficient,
            "prompted": study.poles.shifts[sign],
            "change": side.effect_with_missing.value,
            "reached": side.share.value,
            "low": side.share.low,
            "high": side.share.high,
            "p": side.p,
            "passed": float(passed.loc[side.coefficient]),
            "no_value": side.missing,
            "no_value_of_twins": side.missing_of_twins,
            "usable": side.may_be_claimed and abs(side.coefficient) <= abs(side.usable.last_pass),
            "edge": side.usable.last_pass,
            "edge_change": side.at_edge.value,
            "random_shares": {
                kind: next(each.share_of_real for each in stood if each.sign == sign)
                for kind, stood in random.items()
            },
            "seeds_alone": scattered / abs(side.effect.value),
            "beside": {
                name: beside.loc[(sign, name), ["change", "asked in words"]].tolist()
                for name in BESIDE
            },
        }
        for sign, side in dose.sides.items()
    }


PARTS: dict[str, Callable[["AudioLens", EvaluationSettings, Path], dict | None]] = {
    "codec": _codec,
    "obedience": _obedience,
    "melody": _melody,
    "steering": _steering,
}


def evaluate(
    folder: Path, settings: EvaluationSettings, studies: Path, again: Sequence[str] = ()
) -> dict:
    """Measure what is missing (or asked for again), then write evaluation, choice and card."""
    from audio_lens.lens.lens import AudioLens

    file = folder / "evaluation.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    if found and found["settings"].get("quick", False) != settings.quick:
        found = {}  # a rehearsal is no part of an evaluation
    packaged = {path: name for name, path in CHECKPOINTS.items()}
    lens = AudioLens.from_pretrained(packaged.get(folder.resolve(), folder))
    weights = weights_sha256(lens.hf_model)
    if found.get("weights") != weights:
        found = {"weights": weights}  # nor are measures of other weights
    missing = [part for part in PARTS if part not in found or part in again]
    if "steering" in missing:  # refuse its folders before anything is measured
        for name in CONCEPTS:
            _gone_on_with(_folder(studies, lens, name), settings.study(lens))
    for part in missing:
        found[part] = PARTS[part](lens, settings, studies)
        found["settings"] = asdict(settings)
        file.write_text(json.dumps(found, indent=1) + "\n")
    log = json.loads((folder / "training.json").read_text())
    card = _card.write(folder.name, log, found)
    choices = {concept: _choice(report) for concept, report in found["steering"].items()}
    (folder / "README.md").write_text(card)
    (folder / "choice.json").write_text(json.dumps(choices, indent=1) + "\n")
    return found


def _choice(report: dict) -> dict:
    """What was settled on, on dev prompts, without all that was tried."""
    return {name: value for name, value in report["choice"].items() if name != "scan"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description="Measure the toys and write their cards.")
    parser.add_argument("folders", nargs="*", type=Path, default=list(CHECKPOINTS.values()))
    parser.add_argument("--studies", type=Path, help="folder (runs/studies, or runs/rehearsals)")
    parser.add_argument(
        "--again",
        nargs="+",
        choices=PARTS,
        default=[],
        help="measure anew; of steering, what its studies lack",
    )
    parser.add_argument("--quick", action="store_true", help="a rehearsal of every part")
    options = parser.parse_args(arguments)
    settings = QUICK if options.quick else EvaluationSettings()
    studies = options.studies or Path("runs") / ("rehearsals" if options.quick else "studies")
    for folder in options.folders:
        found = evaluate(folder, settings, studies, options.again)
        sys.stdout.write(f"{folder.name}: {json.dumps(found['steering'], indent=1)}\n")


if __name__ == "__main__":
    main()
