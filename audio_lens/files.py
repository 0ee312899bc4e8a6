"""Files that are whole or not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` when the `with` ends: a kill leaves the old or the new.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with whole(Path(folder) / "choice.json") as partial:
        ...         _ = partial.write_text("{}")
        ...     [file.name for file in Path(folder).iterdir()]
        ['choice.json']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    yield partial
    partial.replace(path)


def partial_of(path: Path) -> Path:
    """What a kill may leave of a file that was being written."""
    return path.with_name(f"{path.name}.part")
