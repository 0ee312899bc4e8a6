"""The notebooks: as their sources say, without outputs, and they run, solutions included."""

import importlib.util
import re
import warnings
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_notebooks_are_made_from_their_sources() -> None:
    nbformat = pytest.importorskip("nbformat")
    spec = importlib.util.spec_from_file_location("make_notebooks", FOLDER / "make_notebooks.py")
    make_notebooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_notebooks)
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        made = make_notebooks.notebook(path.with_suffix(".py").read_text())
        assert nbformat.writes(made) + "\n" == path.read_text(), "run tutorials/make_notebooks.py"
        assert not any(cell.get("outputs") for cell in made.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_with_its_solutions(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    cells, solutions = [], 0
    for cell in notebook.cells:
        cells.append(cell)
        folded = re.findall(r"```python\n(.*?)```", cell.source, re.DOTALL)
        if cell.cell_type == "markdown" and folded:
            cells += [nbformat.v4.new_code_cell(code) for code in folded]
            solutions += len(folded)
    assert solutions == sum("<summary>" in cell.source for cell in notebook.cells)
    notebook.cells = cells
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # of Jupyter's own machinery, not of ours
        # OMP_NUM_THREADS and the rest of the environment reach the kernel as they are.
        client = nbclient.NotebookClient(
            notebook, timeout=150, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
        )
        client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    players = [o for o in outputs if "<audio" in o.get("data", {}).get("text/html", "")]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert players
    assert pictures
