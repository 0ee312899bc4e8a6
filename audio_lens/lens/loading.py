"""Checkpoints, by transformers' own loading, with errors that name what is wrong."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from audio_lens.errors import InputError

TOY = "toy"


def load_musicgen(name: str | Path, **options: Any) -> tuple[nn.Module, Any]:
    """A MusicGen and its processor from the hub, a local folder, or the package ("toy").

    A local folder is read without network. Code that comes with a checkpoint is never run.

    Raises:
        InputError: nothing there, or no cross-attending MusicGen.
    """
    if "trust_remote_code" in options:
        raise InputError("trust_remote_code is never used: MusicGen needs no code of its own.")
    from transformers import AutoProcessor, MusicgenForConditionalGeneration

    source, local = _locate(name)
    where = {"revision": options.pop("revision", None), "local_files_only": local}
    where = {key: value for key, value in where.items() if value}
    with without_padding_notice():
        _check_type(source, where)
        model = MusicgenForConditionalGeneration.from_pretrained(source, **where, **options)
        processor = AutoProcessor.from_pretrained(source, **where)
    return model, processor


@contextmanager
def without_padding_notice() -> Iterator[None]:
    """MusicGen pads with the id just past its vocabulary, by design; transformers remarks on it
    at every load, which would teach users to overlook its warnings.
    """
    logger = logging.getLogger("transformers.configuration_utils")

    def other(record: logging.LogRecord) -> bool:
        return "within the vocabulary" not in record.getMessage()

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _locate(name: str | Path) -> tuple[str, bool]:
    """Where to load from, and whether that is on this disk."""
    if name == TOY:
        # By its place in the package: importing the room above would turn the house upside down.
        return str(files("audio_lens") / "toy" / "checkpoint"), True
    if Path(name).is_dir():
        return str(name), True
    if isinstance(name, Path) or str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
        raise InputError(f"no folder at {name}: give a checkpoint's folder, or a hub name.")
    return str(name), False


def _check_type(source: str, where: dict[str, Any]) -> None:
    from transformers import AutoConfig

    try:
        model_type = AutoConfig.from_pretrained(source, **where).model_type
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source!r} holds no checkpoint that transformers can read. Give a MusicGen folder "
            f"(with config.json), a hub name such as 'facebook/musicgen-small', or {TOY!r}. "
            f"It said: {error}"
        ) from error
    check_model_type(model_type, source)


def check_model_type(model_type: str, source: str) -> None:
    """Raise unless it is a MusicGen whose decoder cross-attends to the text."""
    if model_type == "musicgen":
        return
    if model_type == "musicgen_melody":
        raise InputError(
            f"{source!r} is a melody MusicGen, whose text is a prefix rather than cross-attended: "
            f"not supported yet. Use a small, medium or large checkpoint."
        )
    raise InputError(
        f"{source!r} is a {model_type!r} model, not MusicGen. audio_lens wraps "
        f"MusicgenForConditionalGeneration checkpoints such as 'facebook/musicgen-small'."
    )
