"""Make the notebooks from their sources: `NAME.py` in percent format becomes `NAME.ipynb`.

    python tutorials/make_notebooks.py
    python tutorials/make_notebooks.py --check      # exit 1 when one is stale

A cell starts at `# %%`, a Markdown cell at `# %% [markdown]`; lines of the latter are comments.
Notebooks are kept without outputs: run them to see and hear.
"""

import argparse
import sys
from pathlib import Path

import nbformat

FOLDER = Path(__file__).parent
MARKDOWN = "# %% [markdown]"


def notebook(source: str) -> nbformat.NotebookNode:
    """The notebook of a source, with ids that do not change from run to run."""
    cells = []
    for part in ("\n" + source).split("\n# %%")[1:]:
        kind, _, body = part.partition("\n")
        text = body.strip("\n")
        number = f"cell-{len(cells)}"
        if kind.strip() == "[markdown]":
            lines = [line.removeprefix("#").removeprefix(" ") for line in text.splitlines()]
            cells.append(nbformat.v4.new_markdown_cell("\n".join(lines), id=number))
        else:
            cells.append(nbformat.v4.new_code_cell(text, id=number))
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    made.metadata["language_info"] = {"name": "python"}
    nbformat.validate(made)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 when a notebook is stale")
    options = parser.parse_args()
    stale = []
    for source in sorted(FOLDER.glob("[0-9]*.py")):
        text = nbformat.writes(notebook(source.read_text())) + "\n"
        path = source.with_suffix(".ipynb")
        if options.check and (not path.is_file() or path.read_text() != text):
            stale.append(path.name)
        elif not options.check:
            path.write_text(text)
    for name in stale:
        print(f"{name} is stale: run `python tutorials/make_notebooks.py`.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
