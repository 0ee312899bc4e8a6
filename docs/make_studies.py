"""Write the pages of finished studies: `python docs/make_studies.py FOLDER ...`.

Each folder is of `audio-lens study` on a shipped toy. Sentences, tables and
pictures come of the rows that the folder holds; what a stage lacks is made.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from pandas import DataFrame

from audio_lens import AudioLens
from audio_lens.plots.study import scan_figure
from audio_lens.recipes.concept import concept
from audio_lens.recipes.study.beside import beside_table
from audio_lens.recipes.study.findings import primary_tests
from audio_lens.recipes.study.report import NOT_TOLD, as_read
from audio_lens.recipes.study.settings import StudySettings
from audio_lens.recipes.study.study import Study

OUT = Path(__file__).parent / "studies"


def opened(folder: Path) -> Study:
    """The study that a folder holds."""
    kept = json.loads((folder / "configuration.json").read_text())
    settings = StudySettings.of_json(kept["settings"])
    lens = AudioLens.from_pretrained(kept["model"])
    others = [concept(name) for name in kept["others"]]
    return concept(kept["concept"]).study(
        lens, folder, settings=settings, others=others, progress=False
    )


def table(frame: DataFrame) -> str:
    """A table in Markdown."""
    rows = [[str(name) for name in frame.columns], ["---"] * len(frame.columns)]
    rows += [
        ["" if value != value else as_read(value) if isinstance(value, float) else str(value)
         for value in row]
        for row in frame.values
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(study: Study, name: str) -> Iterator[str]:
    """The lines of a study's page."""
    unit = study.concept.change_unit
    yield f"# {study.concept.name.capitalize()} in `{study.lens.cfg.model_name}`\n"
    yield (
        "Made from a study's folder by `docs/make_studies.py`; results on a toy show that the tool "
        "works, not how MusicGen works.\n"
    )
    yield from (f"- {sentence}" for sentence in study.findings())
    yield f"\n![Change from the twin over the coefficient]({name}-dose.png)\n"
    yield table(study.dose_response.table)
    yield f"\n## The choice, on dev prompts\n\nChosen: {study.choice.way}.\n"
    yield f"![Share of the prompted shift by strategy and layer]({name}-scan.png)\n"
    yield "\n## Controls of the same length\n"
    yield table(beside_table(study.beside))
    yield "\n## Prompts that name drums, and others\n"
    yield table(study.groups)
    yield f"\n## Which layer\n\n![Three answers over layers]({name}-layers.png)\n"
    told = f"![Effect over nats]({name}-strategies.png)" if study.comparison.tells else NOT_TOLD
    yield f"\n## Strategies at equal distortion\n\n{told}\n"
    yield table(study.comparison.to_dataframe())
    yield f"\n## Baselines\n\nChanges in {unit}.\n"
    yield table(study.baselines)
    yield "\n## Taken in other ways\n"
    yield table(study.taken)
    yield "\n## Which words\n\nCosines with the whole direction.\n"
    yield table(study.robustness)
    yield "\n## Side effects\n"
    yield table(study.side_effects)
    yield "\n## Closeness to the unsteered clip\n"
    yield table(study.closeness)


def write(study: Study) -> None:
    """Write a study's page and pictures."""
    name = f"{study.lens.cfg.model_name}-{study.concept.name}"
    OUT.mkdir(exist_ok=True)
    drawn = {
        "dose": study.plot(), "scan": scan_figure(study.choice), "layers": study.layers.plot(),
    }  # fmt: skip
    if study.comparison.tells:
        drawn["strategies"] = study.comparison.plot(study.concept.change_unit)
    for what, figure in drawn.items():
        figure.savefig(OUT / f"{name}-{what}.png", dpi=80)
    (OUT / f"{name}.md").write_text("\n".join(page(study, name)) + "\n")


def main(folders: list[str]) -> None:
    """Write the page of every study, and the primary tests of each model's studies."""
    by_model: dict[str, list[Study]] = {}
    for folder in folders:
        study = opened(Path(folder))
        write(study)
        by_model.setdefault(study.lens.cfg.model_name, []).append(study)
    for model, studies in by_model.items():
        lines = [
            f"# Primary tests in `{model}`\n",
            "Fixed in advance: each concept and sign at the coefficient that was chosen on dev",
            "prompts, on test prompts; signs flipped prompt by prompt, Holm over all of them.\n",
            table(primary_tests(*studies)),
        ]
        (OUT / f"{model}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
