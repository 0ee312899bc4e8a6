"""Probing tasks: what can be read off a model's activations, and off random weights as well.

The tasks are SynTheory's seven (Wei et al., arXiv 2410.00872) and brightness, instrument and level,
from clips that are synthesised here; or any folder of your own.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from audio_lens.analysis._pooling import Pool
from audio_lens.analysis.collect import Gathering, collect
from audio_lens.analysis.probe_sweep import ProbeSweep, probe_sweep
from audio_lens.audio import clips
from audio_lens.errors import InputError
from audio_lens.lens.loading import CHECKPOINTS
from audio_lens.provenance import versions
from audio_lens.testing.random import random_twin

if TYPE_CHECKING:
    from pandas import DataFrame

    from audio_lens.lens.lens import AudioLens


@dataclass(frozen=True)
class ProbingSettings:
    """What is probed, and how."""

    site: tuple[str, ...] = ("resid_post",)
    pool: Pool = "mean_steps"
    shuffles: int = 10
    seed: int = 0
    """Of probes and of the random weights."""
    rows_at_once: int = 32


@dataclass(frozen=True, eq=False)
class ProbedTask:
    """One task: the model's probes, and those of the same model with random weights."""

    task: str
    model: ProbeSweep
    random: ProbeSweep

    def row(self) -> dict[str, Any]:
        """The best place, chosen on validation clips, beside all that it is compared with."""
        site, layer, _ = place = self.model.best()
        probe, other = self.model.probes[place], self.random.probes[self.random.best()]
        trivial = "mean" if probe.classes is None else "majority"
        return {
            "task": self.task,
            "score is": "R2" if probe.classes is None else f"accuracy of {len(probe.classes)}",
            "best at": f"{site} {layer}",
            "score": probe.score,
            "random weights": other.score,
            "shuffled labels": probe.baselines["shuffled"],
            "nothing heard": probe.baselines[trivial].value,
        }


def labelled_tasks(
    lens: "AudioLens",
    tasks: Sequence[str] | None = None,
    *,
    n: int = 500,
    seed: int = 0,
    tuning: clips.Tuning | None = None,
) -> dict[str, clips.LabelledClips]:
    """Labelled clips by task, at the model's sample rate.

    Args:
        lens: The model that is to hear them.
        tasks: Names of `audio_lens.audio.clips.TASKS`; all that the tuning holds if None.
        n: Clips of each.
        seed: Of the draws.
        tuning: `"equal"`, or `"grid"`, which is all that a toy's codec hears; chosen by the model
            if None.

    Raises:
        InputError: an unknown task, or one that the tuning cannot hold.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> data = labelled_tasks(random_musicgen(n_layers=1), ["tempo", "scale"], n=20)
        >>> {task: len(labelled) for task, labelled in data.items()}
        {'tempo': 20, 'scale': 20}
    """
    if tuning is None:
        tuning = "grid" if lens.cfg.model_name in CHECKPOINTS else "equal"
    named = tuple(clips.on_grid() if tuning == "grid" else clips.TASKS) if tasks is None else tasks
    for task in named:
        if task not in clips.TASKS:
            raise InputError(f"no task {task!r}: there are {', '.join(clips.TASKS)}.")
    rate = lens.cfg.sample_rate
    return {task: clips.TASKS[task](n, seed, sample_rate=rate, tuning=tuning) for task in named}


def probe_tasks(
    lens: "AudioLens",
    data: Mapping[str, Any],
    *,
    settings: ProbingSettings | None = None,
    progress: bool = True,
) -> list[ProbedTask]:
    """Probe every task at every layer, in the model and in its twin of random weights.

    The codec hears each clip once; model and twin read the same codes, teacher-forced and without
    a prompt. What the twin's activations tell was in the codes: only what is above it was learned.

    Args:
        lens: The model.
        data: Labelled clips by task: of `labelled_tasks`, or folders of your own.
        settings: Sites, pool, controls.
        progress: Show progress bars.

    Raises:
        InputError: no tasks, or clips that cannot be split; sites that cannot be pooled.

    Example:
        >>> from audio_lens.audio import clips
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> data = {"level": clips.level(30, seed=0, seconds=1.0, sample_rate=16000)}
        >>> found = probe_tasks(lens, data, progress=False)
        >>> found[0].task, len(found[0].model.probes), len(found[0].random.probes)
        ('level', 2, 2)
    """
    settings = settings or ProbingSettings()
    if not data:
        raise InputError("no tasks: give labelled clips by name.")
    if settings.pool == "every_step":
        raise InputError('pool="every_step" gives many vectors per clip: pool over time.')
    if settings.shuffles < 1:
        raise InputError(f"shuffles={settings.shuffles}: a score needs its control, 1 at least.")
    gathered: dict[str, Any] = {
        "site": settings.site,
        "pool": settings.pool,
        "rows_at_once": settings.rows_at_once,
    }
    Gathering(lens, None, codes=lens.random_codes(frames=50), **gathered)  # checked before work
    twin = random_twin(lens, seed=settings.seed)
    fitting: dict[str, Any] = {
        "shuffles": settings.shuffles,
        "seed": settings.seed,
        "progress": False,
    }
    found = []
    for task, labelled in data.items():
        codes = _codes(lens, labelled, settings.rows_at_once, task if progress else None)
        sweeps = []
        for model in (lens, twin):
            heard = collect(model, None, codes=codes, progress=False, **gathered)
            sweeps.append(
                probe_sweep(model, labelled, activations=heard, pool=settings.pool, **fitting)
            )
        found.append(ProbedTask(task, *sweeps))
    return found


def _codes(
    lens: "AudioLens", labelled: Any, rows_at_once: int, named: str | None
) -> Int[Tensor, "clip codebook frame"]:
    starts: Iterable[int] = range(0, len(labelled), rows_at_once)
    if named is not None:
        starts = tqdm(starts, desc=f"hearing {named}")
    parts = []
    for start in starts:
        stop = min(start + rows_at_once, len(labelled))
        parts.append(lens.encode([labelled[n] for n in range(start, stop)]))
    if len({part.shape[-1] for part in parts}) > 1:
        raise InputError("the clips are of several lengths: cut them to one.")
    return torch.cat(parts)


def table(found: Sequence[ProbedTask]) -> "DataFrame":
    """One row per task: its best place and what that is compared with, estimates with intervals."""
    import pandas

    return pandas.DataFrame([each.row() for each in found])


def report(found: Sequence[ProbedTask]) -> str:
    """The table in Markdown."""
    rows = table(found)
    shown = [
        [f"{value:.2f}" if not isinstance(value, str) else value for value in row]
        for row in rows.itertuples(index=False, name=None)
    ]
    lines = [list(rows.columns), ["---"] * rows.shape[1], *shown]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write(
    found: Sequence[ProbedTask], folder: str | Path, settings: ProbingSettings, lens: "AudioLens"
) -> Path:
    """The table, every probe's score, a picture of all tasks and one of each, the configuration."""
    import pandas

    from audio_lens.plots.probes import tasks_figure

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "probing.md").write_text(report(found) + "\n")
    every = [
        sweep.to_dataframe().assign(task=each.task, weights=weights)
        for each in found
        for weights, sweep in (("model", each.model), ("random", each.random))
    ]
    scores = pandas.concat(every)
    scores.to_csv(folder / "probes.csv", index=False)
    tasks_figure(scores).savefig(folder / "probing.png", dpi=110)
    for each in found:
        figure = each.model.plot(beside={"random weights": each.random})
        figure.savefig(folder / f"{each.task}.png", dpi=110)
    clips_of = {each.task: each.model.made["clips"] for each in found}
    said = {
        "model": lens.cfg.model_name,
        "settings": asdict(settings),
        "clips": clips_of,
        "versions": versions(),
    }
    (folder / "configuration.json").write_text(json.dumps(said, indent=1) + "\n")
    return folder
