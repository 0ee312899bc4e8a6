"""The toy MusicGen that ships inside the package, and the script that trains it."""

from pathlib import Path

#: Folder of the packaged checkpoint; transformers alone can load it.
CHECKPOINT: Path = Path(__file__).parent / "checkpoint"
