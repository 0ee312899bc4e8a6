"""The report: one page that needs nothing else, with curves, tables, sentences and players."""

import html
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audio_lens.plots.study import scan_figure
from audio_lens.recipes.study.beside import beside_table
from audio_lens.recipes.study.findings import methods, primary_tests
from audio_lens.recipes.study.listening import as_addresses
from audio_lens.recipes.study.strengths import SIGNS

if TYPE_CHECKING:
    from pandas import DataFrame

    from audio_lens.recipes.study.ledger import Row
    from audio_lens.recipes.study.study import Study

_PLAYED_PROMPTS = 6
_LISTED = ("prompt", "seed", "coefficient", "value", "change", "failed")
NOT_TOLD = (
    "No way reaches the distortion of the choice without breaking over ten points more of these "
    "few clips than break unsteered: nothing can be compared."
)
_METADATA = ("Creator", "Date", "Format", "Type")
"""Left out of pictures: the date would make every report another."""
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 0.85rem } td, th { padding: 0.2rem 0.7rem;
text-align: right; border-bottom: 1px solid #ddd } td:first-child, th:first-child
{ text-align: left } audio { width: 15rem } svg { max-width: 100%; height: auto }
"""


def write_report(study: "Study") -> Path:
    """Write `report.html` and the tables beside it; returns the page's path."""
    import pandas

    page = "\n".join(_page(study))
    rows = pandas.DataFrame(study.rows)
    rows.to_csv(study.ledger.file("rows.csv"), index=False)
    rows.to_parquet(study.ledger.file("rows.parquet"))
    study.ledger.file("methods.txt").write_text(methods(study) + "\n")
    study.ledger.file("table.tex").write_text(_latex(study))
    _write_clips(study)
    file = study.ledger.file("report.html")
    file.write_text(page, encoding="utf-8")
    return file


def _page(study: "Study") -> Iterator[str]:
    concept = study.concept
    title = f"{concept.name} in {study.lens.cfg.model_name}"
    yield f"<!doctype html><meta charset='utf-8'><title>{html.escape(title)}</title>"
    yield f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1><h2>Findings</h2><ul>"
    for sentence in study.findings():
        yield f"<li>{html.escape(sentence)}</li>"
    yield "</ul>"
    for heading, part in _parts(study):
        yield f"<h2>{heading}</h2>{part}"
    yield f"<h2>Methods</h2><p>{html.escape(methods(study))}</p>"
    settings = json.dumps(asdict(study.settings))
    yield f"<p>Settings: <code>{html.escape(settings)}</code></p>"


def _parts(study: "Study") -> Iterator[tuple[str, str]]:
    """Headings with what stands under them."""
    unit = study.concept.change_unit
    yield "Listen", _players(study)
    yield "Dose and response", _svg(study.plot()) + _table(study.dose_response.table)
    yield "Controls of the same length", _table(beside_table(study.beside))
    if len(study.groups):
        yield "Prompts apart", _table(study.groups)
    yield "Which layer", _svg(study.layers.plot()) + _table(study.layers.to_dataframe(), index=True)
    yield "Where it was chosen, on dev prompts", _svg(scan_figure(study.choice))
    compared = _svg(study.comparison.plot(unit)) if study.comparison.tells else f"<p>{NOT_TOLD}</p>"
    yield (
        "Strategies at equal distortion, on dev prompts",
        compared + _table(study.comparison.to_dataframe()),
    )
    yield "Baselines", _table(study.baselines) + _text(study)
    yield "Side effects", _table(study.side_effects)
    yield "Closeness to the unsteered clip", _table(study.closeness)
    yield "Taken in other ways, on dev prompts", _table(study.taken)
    yield "How many prompts, and which words", _svg(study.stability.plot()) + _words(study)


def _words(study: "Study") -> str:
    return _table(study.robustness) if len(study.robustness) else ""


def _text(study: "Study") -> str:
    """What is heard while the text goes from pole to pole, if any prompts could be mixed."""
    if not len(study.text):
        return "<p>No pair of prompts has as many tokens, so none was mixed as text.</p>"
    middles = study.text.groupby("coefficient")["value"].median().reset_index()
    middles.columns = ["text, from pole to pole", f"median, {study.concept.unit}"]
    return _table(middles)


def _played(study: "Study") -> dict[str, list["Row"]]:
    """The rows that are played: of the first test prompts, unsteered and at each pole."""
    doses = {"unsteered": 0.0} | {
        study.concept.poles[sign == "+"]: study.choice.coefficients[sign] for sign in SIGNS
    }
    seed = study.settings.test_first_seed
    known = {(r["prompt"], r["seed"], r["coefficient"]): r for r in study.rows}
    prompts = study.concept.test[:_PLAYED_PROMPTS]
    return {name: [known[prompt, seed, dose] for prompt in prompts] for name, dose in doses.items()}


def _players(study: "Study") -> str:
    """Unsteered and steered clips side by side, at the loudness that they have."""
    played = _played(study)
    lines = ["<table><tr><th>prompt</th>", *(f"<th>{html.escape(n)}</th>" for n in played), "</tr>"]
    for beside in zip(*played.values(), strict=True):
        cells = "".join(
            f"<td><audio controls preload='none' src='{sound}'></audio></td>"
            for sound in as_addresses(study, beside)
        )
        lines.append(f"<tr><td>{html.escape(beside[0]['prompt'])}</td>{cells}</tr>")
    return "".join([*lines, "</table>"])


def _write_clips(study: "Study") -> None:
    """The clips that the page plays, as files, with a list of what they are."""
    import pandas

    folder = study.ledger.file("clips")
    listed: list[dict[str, Any]] = []
    for beside in zip(*_played(study).values(), strict=True):
        for row in beside:
            # By number: poles may be called anything, in any script.
            file = f"{len(listed) + 1:02d}.flac"
            study.clip(row).save(folder / file)
            listed.append({"file": file, **{what: row[what] for what in _LISTED}})
    pandas.DataFrame(listed).to_csv(folder / "clips.csv", index=False)


def _svg(figure: Any) -> str:
    import matplotlib

    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "audio_lens"}):
        figure.savefig(drawn, format="svg", metadata=dict.fromkeys(_METADATA))
    text = drawn.getvalue()
    return text[text.index("<svg") :]


def _table(frame: "DataFrame", *, index: bool = False) -> str:
    return str(frame.to_html(index=index, na_rep="", border=0, float_format=as_read))


def as_read(value: float) -> str:
    """A number as tables show it: three digits that mean something, whole ones as they are.

    >>> as_read(-0.0123456), as_read(1843.2), as_read(96.0)
    ('-0.0123', '1843', '96')
    """
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _latex(study: "Study") -> str:
    """The primary results as a LaTeX table."""
    tests = primary_tests(study).set_index("sign")
    unit = study.concept.change_unit
    lines = ["\\begin{tabular}{lrrrr}", "\\hline"]
    lines.append(f"& coefficient & change ({unit}) [95\\,\\%] & of prompted & $p$ (Holm) \\\\")
    lines.append("\\hline")
    for sign, side in study.dose_response.sides.items():
        lines.append(
            f"{study.concept.poles[sign == '+']} & {side.coefficient:+g} & "
            f"{side.effect_with_missing:+.2f} & {100 * side.share.value:.0f}\\,\\% & "
            f"{tests.loc[sign, 'corrected p']:.4f} \\\\"
        )
    return "\n".join([*lines, "\\hline", "\\end{tabular}", ""])
