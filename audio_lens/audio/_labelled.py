"""Clips with labels: what is known about each as data, and its sound when it is asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from audio_lens.errors import InputError

from ._rendering import Job, render, render_all
from .splits import SPLITS

if TYPE_CHECKING:
    from audio_lens.audio.clip import Clip

Tuning = Literal["equal", "grid"]


@dataclass(frozen=True, eq=False)
class LabelledClips:
    """Clips of one task. Nothing is rendered before it is asked for.

    `data[i]` is a `Clip`, iterating yields one clip after another, `render()` gives them all as
    one array, and `train`, `validation`, `test` and `select` give fewer clips of the same kind.

    Example:
        >>> from audio_lens.audio import clips
        >>> data = clips.note(60, seed=0, seconds=1.0, sample_rate=16000)
        >>> len(data), len(data.train), data.classes[:3]
        (60, 36, ('C', 'C#', 'D'))
        >>> data[0]
        Clip(1.00 s at 16000 Hz, seed 0)
    """

    task: str
    label: str
    """What is asked, in a word or two."""
    unit: str | None
    """Of graded labels; None for classes."""
    labels: np.ndarray
    """[clip]: floats in `unit`, or names of classes."""
    classes: tuple[str, ...] | None
    """All classes, in order; None for graded labels."""
    factors: Mapping[str, np.ndarray]
    """Everything else about each clip, as arrays [clip]; `take` is its own seed, for jitter."""
    split: np.ndarray
    """[clip]: "train", "validation" or "test"."""
    held_out: str
    """What no two splits share, in words."""
    seed: int
    seconds: float
    sample_rate: int
    """Hz."""
    tuning: Tuning

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> "Clip":
        if not isinstance(index, int | np.integer):
            raise InputError(
                f"data[{index!r}] is not one clip: give a whole number, or take several with "
                "data.select(indices or mask)."
            )
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no clip {index}: this set holds {len(self)}.")
        return self._clip(render(self._job(int(index))), int(index))

    def __iter__(self) -> Iterator["Clip"]:
        for index in range(len(self)):
            yield self[index]

    @property
    def train(self) -> "LabelledClips":
        """The clips to fit on: three fifths."""
        return self._of("train")

    @property
    def validation(self) -> "LabelledClips":
        """The clips to choose on: a fifth."""
        return self._of("validation")

    @property
    def test(self) -> "LabelledClips":
        """The clips to report: a fifth."""
        return self._of("test")

    @property
    def table(self) -> dict[str, np.ndarray]:
        """Columns [clip] of everything known: `pandas.DataFrame(data.table)` makes a frame."""
        return {"label": self.labels, "split": self.split, **self.factors}

    def select(self, which: Any) -> "LabelledClips":
        """Some of the clips, in the order asked: indices, a slice or a mask [clip].

        Raises InputError for a mask of another length or indices that do not exist.

        >>> from audio_lens.audio import clips
        >>> data = clips.interval(24, seed=0)
        >>> set(data.select(data.factors["style"] == "up").factors["style"].tolist())
        {'up'}
        """
        try:
            index = np.atleast_1d(np.arange(len(self))[which])
        except IndexError as error:
            raise InputError(
                f"cannot select from {len(self)} clips: {error}; give indices below "
                f"{len(self)}, a slice, or a mask of {len(self)} booleans."
            ) from error
        return replace(
            self,
            labels=self.labels[index],
            split=self.split[index],
            factors={name: values[index] for name, values in self.factors.items()},
        )

    def render(
        self, workers: int = 1, *, progress: bool = True
    ) -> Float[np.ndarray, "clip sample"]:
        """All clips as float32 [clip sample]: `4 * seconds * sample_rate` bytes each.

        workers: processes; their number changes no sample. With more than one, a script must
        stand under `if __name__ == "__main__":`, as for any multiprocessing.
        Raises InputError for fewer than one worker.

        >>> from audio_lens.audio import clips
        >>> data = clips.tempo(3, seed=0, seconds=2.5, sample_rate=16000)
        >>> data.render(progress=False).shape
        (3, 40000)
        """
        from tqdm.auto import tqdm

        if not isinstance(workers, int) or workers < 1:
            raise InputError(f"workers={workers!r}: expected a whole number of processes, from 1.")
        jobs = [self._job(index) for index in range(len(self))]
        made = np.empty((len(self), round(self.seconds * self.sample_rate)), dtype=np.float32)
        ready = render_all(jobs, workers)
        for index, wave in enumerate(
            tqdm(ready, total=len(jobs), desc=f"{self.task} clips", disable=not progress)
        ):
            made[index] = wave
        return made

    def _of(self, split: str) -> "LabelledClips":
        return self.select(self.split == split)

    def _row(self, index: int) -> dict[str, Any]:
        """Label and factors of a clip, as plain values."""
        label = self.labels[index].item()
        return {"label": label} | {name: v[index].item() for name, v in self.factors.items()}

    def _job(self, index: int) -> Job:
        grid = self.tuning == "grid"
        return Job(self.task, self._row(index), self.seconds, self.sample_rate, grid)

    def _clip(self, wave: Float[np.ndarray, " sample"], index: int) -> "Clip":
        import torch

        from audio_lens.audio.clip import Clip

        settings = {"task": self.task, "tuning": self.tuning, **self._row(index)}
        waveform = torch.from_numpy(wave)[None]
        return Clip(waveform, self.sample_rate, seed=self.seed, settings=settings)

    def __repr__(self) -> str:
        shares = ", ".join(f"{np.sum(self.split == split)} {split}" for split in SPLITS)
        asked = f"{len(self.classes)} classes" if self.classes else str(self.unit)
        return (
            f"LabelledClips({self.task}: {len(self)} of {self.seconds:g} s at {self.sample_rate} "
            f"Hz, {self.label} in {asked}; {shares}; {self.tuning} tuning, seed {self.seed})"
        )
