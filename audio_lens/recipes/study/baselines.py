"""Other ways to the same end, beside which steering has to be worth it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from audio_lens.analysis.directions import Direction
from audio_lens.analysis.statistics import Estimate
from audio_lens.lens.intervention import Intervention
from audio_lens.lens.operations import Operation, Strength
from audio_lens.recipes.study.choosing import Choice
from audio_lens.recipes.study.doses import cell, estimated
from audio_lens.recipes.study.hearing import Cell, Hearing, Way
from audio_lens.recipes.study.ledger import Row
from audio_lens.recipes.study.settings import StudySettings

if TYPE_CHECKING:
    from pandas import DataFrame

    from audio_lens.lens.run import Hook

_TEXT = "text.hook_out"


def baselines(
    hearing: Hearing,
    direction: Direction,
    choice: Choice,
    prompted: Mapping[str, Estimate],
    settings: StudySettings,
) -> "DataFrame":
    """The pole's word in the prompt, the wrong layer, the guidance alone; one row each.

    prompted: the change from neutral clips to clips prompted at each pole, by sign.
    """
    import pandas

    test = hearing.concept.test
    first = settings.test_first_seed
    seeds = range(first, first + settings.control_seeds)
    lines: list[dict[str, Any]] = [
        {
            "baseline": "the word in the prompt",
            "sign": sign,
            "change": shift.value,
            "low": shift.low,
            "high": shift.high,
        }
        for sign, shift in prompted.items()
    ]
    wrong = wrong_layer(choice)
    if wrong is not None:
        rows = hearing.steered(
            "baselines", "wrong layer", direction, wrong, prompts=test, seeds=seeds,
            coefficients=tuple(choice.coefficients.values()),
        )  # fmt: skip
        doses = list(choice.coefficients.values())
        nats = hearing.nats(direction, wrong, doses, settings.distortion_clips)
        for sign, dose in choice.coefficients.items():
            name = f"layer {wrong.source_layer}, the worst in the scan"
            found = _said(rows, dose)
            lines.append({"baseline": name, "sign": sign, **found, "nats": nats[dose]})
    for scale in settings.guidance_tried:
        rows = hearing.guided("baselines", test, seeds, scale)
        name = f"guidance {scale:g} in place of {settings.guidance_scale:g}"
        lines.append({"baseline": name, "sign": "", **_said(rows, 0.0)})
    return pandas.DataFrame(lines)


def _said(rows: Sequence[Row], dose: float) -> dict[str, float]:
    passed = float(cell(rows, dose, "passed").mean())
    return {**estimated(cell(rows, dose, "change")), "passed": passed}


def wrong_layer(choice: Choice) -> Way | None:
    """The chosen way at the layer that did worst in the scan; None where there is no other."""
    same = [
        way
        for way in choice.scan
        if all(way[name] == getattr(choice.way, name) for name in ("site", "strategy", "branch"))
        and way["source_layer"] not in (None, choice.way.source_layer)
    ]
    if not same:
        return None
    worst = min(same, key=lambda way: way["reached"])
    return replace(choice.way, source_layer=worst["source_layer"])


def text_between_poles(hearing: Hearing, settings: StudySettings) -> "DataFrame":
    """What is heard while the text states go from the negative pole's to the positive one's.

    Only pairs of prompts with as many tokens can be mixed; there may be none. One row per clip.
    """
    import pandas

    concept, lens = hearing.concept, hearing.lens
    rows: list[Row] = []
    for positive, negative in zip(concept.positive, concept.negative, strict=True):
        if len(rows) >= settings.text_pairs * len(settings.text_steps):
            break
        ends = [_states(lens, text) for text in (positive, negative)]
        if ends[0].shape != ends[1].shape:
            continue

        def put(batch: Sequence[Cell], target: Tensor = ends[0]) -> list[Intervention]:
            strengths = [cell.coefficient for cell in batch]
            return [Intervention(_TEXT, _towards(target), branch="cond", coefficient=strengths)]

        cells = [
            Cell(negative, settings.test_first_seed, step, "between poles")
            for step in settings.text_steps
        ]
        rows += hearing.put("text", cells, put)
    wanted = ["coefficient", "prompt", "seed", "value"]
    return pandas.DataFrame([{name: row[name] for name in wanted} for row in rows], columns=wanted)


def _towards(target: Tensor) -> Operation:
    """Move the first text states towards others; what follows them is padding, which is masked."""

    def mix(states: Tensor, share: Strength, hook: "Hook") -> Tensor:
        n = len(target)
        mixed = states.clone()
        mixed[:, :n] += share * (target.to(states) - states[:, :n])
        return mixed

    return mix


def _states(lens: Any, text: str) -> Tensor:
    """A prompt's text states, [token d_text]."""
    codes = torch.zeros(1, lens.cfg.n_codebooks, 1, dtype=torch.long, device=lens.cfg.device)
    _, cache = lens.run_with_cache(text, codes, names_filter=_TEXT)
    return cache[_TEXT][0]
