"""Write the page of probing tasks: `python docs/make_probing.py FOLDER ...`.

Each folder is of `audio-lens probe` on a shipped toy.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas

from audio_lens.audio import clips
from audio_lens.plots.probes import tasks_figure

PAGE = Path(__file__).parent / "probing.md"
_HEAD = """# What can be read off the toys

Made by `python docs/make_probing.py` from the folders that these commands leave:

```bash
{commands}
```

SynTheory's tasks (arXiv 2410.00872) and brightness, instrument and level, on
[labelled clips](datasets.md) that are tuned to the grid the toys' codec hears. Models hear each
clip teacher-forced and without a prompt, so nothing here was told to them in words; what a probe
reads was heard. Probes are linear, one per site and layer on means over time; best places are
chosen on validation clips, scores are of test clips that share no label value or pattern with
training ([probes](probes.md) says what each column means). On a checkpoint:
`audio-lens probe --model facebook/musicgen-small`, which asks in equal temperament.

**Only what is above random weights was learned**: codes alone tell much, and a random model passes
them on. Without a prompt cross-attention writes nothing, so nothing can be read there: a control of
the method.
"""


def section(folder: Path) -> Iterator[str]:
    """The lines of one model."""
    said = json.loads((folder / "configuration.json").read_text())
    model = said["model"]
    scores = pandas.read_csv(folder / "probes.csv")
    picture = PAGE.parent / "figures" / f"probing-{model}.png"
    tasks_figure(scores).savefig(picture, dpi=70)
    yield f"\n## `{model}`\n"
    yield (folder / "probing.md").read_text()
    yield (
        "![Scores over layers by task and site; dashed: random weights; dotted: shuffled labels]"
        f"(figures/{picture.name})"
    )


def left_out() -> Iterator[str]:
    """What the tasks are on the grid, and which it cannot hold."""
    held = clips.on_grid()
    missing = ", ".join(task for task in clips.TASKS if task not in held)
    yield "\n## What the grid holds\n"
    yield from (f"- `{task}`: {words}" for task, words in held.items())
    yield f"\nNot asked: `{missing}`, which the grid cannot hold ([datasets](datasets.md))."


def command(folder: Path) -> str:
    """What made a folder."""
    said = json.loads((folder / "configuration.json").read_text())
    shown = next(iter(said["clips"].values()))  # "LabelledClips(tempo: 400 of 10 s ..."
    (n_clips,) = re.findall(r": (\d+) of ", shown)
    sites = " ".join(said["settings"]["site"])
    return f"audio-lens probe --model {said['model']} --clips {n_clips} --site {sites}"


def main(folders: list[str]) -> None:
    """Write the page."""
    found = [Path(folder) for folder in folders]
    lines = [_HEAD.format(commands="\n".join(map(command, found)))]
    for folder in found:
        lines += section(folder)
    lines += left_out()
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
