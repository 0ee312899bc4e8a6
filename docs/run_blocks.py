"""Run the ```python blocks of a page top to bottom, in one namespace.

    python docs/run_blocks.py docs/quickstart.md            # run, and show what is printed
    python docs/run_blocks.py --write docs/quickstart.md    # and put it into the page

A ```text block right after a ```python block is what that block prints. `--write` renews those
blocks, so that no output on a page is typed by hand. The tests run the same function.
"""
# ruff: noqa: T201

import argparse
import contextlib
import io
import linecache
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and where it stands in the page."""

    language: str
    text: str
    start: int
    """Of the text, in characters."""
    end: int
    closed: int
    """Where the block's own closing fence ends."""


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    return [Block(m[1], m[2], m.start(2), m.end(2), m.end()) for m in _FENCE.finditer(page)]


def run(path: Path) -> Iterator[tuple[Block, str]]:
    """Run the page's Python blocks; yields each with what it printed.

    Line numbers in tracebacks are the page's own. The source is put where `inspect` looks for
    it, because nnsight reads the source of a `with lens.trace(...)` body.
    """
    page = path.read_text()
    lines = [""] * (page.count("\n") + 1)
    for block in blocks(page):
        if block.language == "python":
            first = page.count("\n", 0, block.start)
            code = block.text.splitlines()
            lines[first : first + len(code)] = code
    name = f"<{path.name}>.py"
    source = [line + "\n" for line in lines]
    linecache.cache[name] = (sum(map(len, source)), None, source, name)
    namespace: dict[str, Any] = {"__name__": "__page__", "__file__": name}
    for block in blocks(page):
        if block.language == "python":
            above = "\n" * page.count("\n", 0, block.start)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(above + block.text, name, "exec"), namespace)
            yield block, printed.getvalue()


def written(path: Path) -> str:
    """The page with every ```text block that follows a Python block renewed."""
    page, parts, done = path.read_text(), [], 0
    outputs = {block.start: (block, printed) for block, printed in run(path)}
    found = blocks(page)
    for block, following in zip(found, [*found[1:], None], strict=True):
        if block.start not in outputs:
            continue
        printed = outputs[block.start][1].rstrip("\n") + "\n"
        shown = following is not None and following.language == "text"
        if not shown or page[block.closed : following.start].strip() != "```text":
            if printed.strip():
                raise SystemExit(f"{path}: printed, but no ```text block follows:\n{block.text}")
            continue
        parts += [page[done : following.start], printed]
        done = following.end
    return "".join([*parts, page[done:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="renew the outputs in the pages")
    options = parser.parse_args()
    for path in options.pages:
        if options.write:
            path.write_text(written(path))
            continue
        for block, printed in run(path):
            print(f"{block.text}{printed}", flush=True)


if __name__ == "__main__":
    main()
