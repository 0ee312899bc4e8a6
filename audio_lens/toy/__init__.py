"""The toy MusicGens that ship inside the package, and the scripts that train and measure them."""

from pathlib import Path

_HERE = Path(__file__).parent / "checkpoints"
#: Folders of the packaged checkpoints; transformers alone can load them.
CHECKPOINTS: dict[str, Path] = {name: _HERE / name for name in ("toy",)}
CHECKPOINT: Path = CHECKPOINTS["toy"]
