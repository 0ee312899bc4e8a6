"""The pages: generated ones are fresh, links resolve, and every Python block runs."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def _script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


run_blocks = _script(ROOT / "docs" / "run_blocks.py")


def test_site_page_is_what_the_table_says() -> None:
    make_sites = _script(ROOT / "docs" / "make_sites.py")
    assert make_sites.PAGE.read_text() == make_sites.page(), "run `python docs/make_sites.py`"


def test_check_tells_a_stale_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sites = _script(ROOT / "docs" / "make_sites.py")
    monkeypatch.setattr(make_sites, "PAGE", tmp_path / "sites.md")
    monkeypatch.setattr(sys, "argv", ["make_sites.py", "--check"])
    assert make_sites.main() == 1
    assert "is stale" in capsys.readouterr().err
    (tmp_path / "sites.md").write_text(make_sites.page())
    assert make_sites.main() == 0


def test_site_page_names_every_site_of_a_model() -> None:
    from audio_lens.testing import random_musicgen

    page = (ROOT / "docs" / "sites.md").read_text()
    for family, *_ in random_musicgen(n_layers=1).sites.rows():
        assert f"| `{family}` |" in page


def _anchors(page: str) -> set[str]:
    """Headings as GitHub makes them into anchors."""
    headings = re.findall(r"^#+ (.+)$", run_blocks._FENCE.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: path.name)
def test_internal_links_resolve(path: Path) -> None:
    page = run_blocks._FENCE.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", page):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file) if file else path
        assert linked.exists(), f"{path.name} links to {target}, which does not exist"
        if anchor:
            assert anchor in _anchors(linked.read_text()), f"{path.name}: no heading for {target}"


def _python_pages() -> list[Path]:
    return [
        path
        for path in [*PAGES, ROOT / "README.md"]
        if any(block.language == "python" for block in run_blocks.blocks(path.read_text()))
    ]


@pytest.mark.parametrize("path", _python_pages(), ids=lambda path: path.name)
def test_python_blocks_run_top_to_bottom(path: Path) -> None:
    page = path.read_text()
    shown = [block for block in run_blocks.blocks(page) if block.language == "text"]
    for block, printed in run_blocks.run(path):
        following = [
            other for other in shown if page[block.closed : other.start].strip() == "```text"
        ]
        assert bool(following) == bool(printed.strip()), f"output and page differ: {block.text}"


def test_pages_that_must_have_examples_have_them() -> None:
    assert {"quickstart.md", "hooks.md", "README.md"} <= {path.name for path in _python_pages()}
