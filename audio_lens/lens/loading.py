"""Checkpoints, by transformers' own loading, with errors that name what is wrong."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import nn

from audio_lens.errors import InputError
from audio_lens.lens.weight_files import SAFE, read_json, some, tensors_in, weight_files

CHECKPOINTS: Mapping[str, Path] = {
    name: Path(str(files("audio_lens"))) / "toy" / "checkpoints" / name
    for name in ("toy", "toy-melody")
}
"""Folders of the toys that ship inside the package; transformers alone can load them."""

_CLASSES = {
    "musicgen": "MusicgenForConditionalGeneration",
    "musicgen_melody": "MusicgenMelodyForConditionalGeneration",
}
"""transformers' class for each `model_type` that the lens wraps."""

_WANTED = ("*.json", "*.txt", "*.model", "model*.safetensors")
"""What is fetched of a hub repository: not audiocraft's own `state_dict.bin`, nor pickled weights
beside safetensors, which together are thrice the size."""

_REFUSED = {
    "trust_remote_code": "trust_remote_code is never used: MusicGen needs no code of its own.",
    "ignore_mismatched_sizes": "it would leave weights at random; give a config that fits them.",
    "weights_only": "nothing but weights is ever read from a pickle.",
    "use_safetensors": "safetensors are always preferred; allow_pickle=True reads pickled weights.",
    "output_loading_info": "what it tells is checked here, and raised.",
    "state_dict": "put the weights into a folder with save_pretrained(), and give that.",
    "gguf_file": "give a folder with a model.safetensors.",
    "variant": "give a folder with a model.safetensors.",
    "subfolder": "download the repository, and give the folder inside it.",
}
"""Options of transformers that would load something else than what is checked here."""

_EXTRA = re.compile(
    # Sine tables: saved as a parameter until transformers made them a buffer that is computed.
    r"decoder\.model\.decoder\.embed_positions\.weights"
    # A whole T5, of which MusicGen has the encoder alone.
    r"|text_encoder\.decoder\..*"
)
"""Tensors of a file that a MusicGen may do without.

Nothing else is left over in a file that fits its config: a tensor more means more layers or
codebooks than the config says. transformers would not tell, because T5's pattern of what to
overlook, `decoder`, holds for the whole model and so for all of MusicGen's decoder.
"""

_RENAMED = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}
"""EnCodec's convolutions before torch had parametrizations, as the hub's files have them.
transformers renames them as it loads."""


def load_musicgen(
    name: str | Path, *, allow_pickle: bool = False, **options: Any
) -> tuple[Any, Any]:
    """A MusicGen and its processor from the hub, a local folder, or the package.

    A local folder is read without network. Code that comes with a checkpoint is never run. The
    processor is the bare tokenizer where transformers lacks what the rest of it needs, and None
    where the checkpoint has no tokenizer.

    Args:
        name: A hub name, a folder, "toy" or "toy-melody".
        allow_pickle: Read `pytorch_model.bin` where there are no safetensors. Unpickling is
            restricted to tensors, yet has been broken out of before: trust the source.
        options: `revision`, `cache_dir`, `token`, `force_download`, `local_files_only` for the
            hub; all others for transformers' `from_pretrained`.

    Raises:
        InputError: nothing there, no MusicGen, or weights that are not all there.
    """
    for option in _REFUSED.keys() & options.keys():
        why = _REFUSED[option]
        raise InputError(why if why.startswith(option) else f"{option} cannot be given: {why}")
    folder = _local(name, options, allow_pickle)
    config = _read_config(folder)
    check_model_type(str(config.get("model_type")), str(name))
    weights = weight_files(folder, config.get("transformers_weights"), allow_pickle)
    found = {tensor for path in weights for tensor in tensors_in(path)}
    model = _load_model(folder, config["model_type"], found, options)
    model.name_or_path = model.config.name_or_path = str(name)  # not where the hub's cache is
    return model, _load_processor(folder)


def check_model_type(model_type: str, source: str) -> None:
    """Raise unless it is a MusicGen, with or without a melody."""
    if model_type not in _CLASSES:
        raise InputError(
            f"{source!r} is a {model_type!r} model, not MusicGen. audio_lens wraps "
            f"{' and '.join(_CLASSES.values())} checkpoints such as 'facebook/musicgen-small'."
        )


def check_in_memory(model: nn.Module) -> None:
    """Raise where a device map left weights on disk or in another memory, to be fetched at each
    call: sites are laid out by where the weights are, and weights are read as they are.
    """
    away = [name for name, weight in model.named_parameters() if weight.is_meta]
    if away:
        raise InputError(
            f"the device map offloads {len(away)} weights ({some(away, 1)}), but the lens needs "
            f"all of them in memory. Use a smaller dtype, more devices, or device_map='cpu'."
        )


def without_padding_notice() -> AbstractContextManager[None]:
    """MusicGen pads with the id just past its vocabulary, by design; transformers remarks on it
    at every load, which would teach users to overlook its warnings.
    """
    return _without("transformers.configuration_utils", "within the vocabulary")


@contextmanager
def _without(logger_name: str, said: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)

    def other(record: logging.LogRecord) -> bool:
        return said not in record.getMessage()

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


# -- where it is ----------------------------------------------------------------------------------


def _local(name: str | Path, options: dict[str, Any], allow_pickle: bool) -> Path:
    """The checkpoint's folder on this disk, fetched from the hub first if it is a hub name."""
    hub: dict[str, Any] = {
        option: options.pop(option)
        for option in ("revision", "cache_dir", "token", "force_download", "local_files_only")
        if option in options
    }
    if name in CHECKPOINTS:
        return CHECKPOINTS[str(name)]
    if (folder := Path(name).expanduser()).is_dir():
        if hub.get("revision"):
            raise InputError(f"{name} is a folder, which has no revision {hub['revision']!r}.")
        return folder
    if isinstance(name, Path) or str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
        raise InputError(f"no folder at {name}: give a checkpoint's folder, or a hub name.")
    return _fetch(name, hub, allow_pickle)


def _fetch(name: str, hub: Mapping[str, Any], allow_pickle: bool) -> Path:
    """Download what is needed of a hub repository, or find it in the hub's cache."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(_WANTED), **hub))
        if allow_pickle and not any((folder / file).is_file() for file in SAFE):
            snapshot_download(name, allow_patterns=["pytorch_model*.bin"], **hub)
    except Exception as error:  # whatever goes wrong between here and the hub
        raise InputError(
            f"{name!r} is no folder here, and could not be fetched from the hub. Check the name. "
            f"Without network, download it elsewhere (`hf download {name} --exclude '*.bin' "
            f"--local-dir FOLDER`) and give that folder; or say 'toy' or 'toy-melody', "
            f"which ship. The hub said: {error}"
        ) from error
    return folder


# -- what it holds --------------------------------------------------------------------------------


def _read_config(folder: Path) -> dict[str, Any]:
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder} holds an adapter, whose base model would come from elsewhere. Merge it "
            f"(peft's merge_and_unload()), save the model with save_pretrained(), and give that."
        )
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder} holds no checkpoint: it has no config.json. Give a MusicGen folder, a hub "
            f"name such as 'facebook/musicgen-small', 'toy' or 'toy-melody'."
        )
    return read_json(folder / "config.json")


# -- loading --------------------------------------------------------------------------------------


def _load_model(folder: Path, model_type: str, found: set[str], options: dict[str, Any]) -> Any:
    import transformers

    model_class = getattr(transformers, _CLASSES[model_type])
    if "config" not in options:
        _check_config(model_class.config_class, folder)
    # Its report speaks of weights that were initialised anew; here that is an error of its own.
    with without_padding_notice(), _without("transformers.modeling_utils", "LOAD REPORT"):
        model, info = model_class.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # so that they are told below, with both shapes
            output_loading_info=True,
            **options,
        )
    _check_complete(model, folder, info, found)
    check_in_memory(model)
    return model


def _check_config(config_class: Any, folder: Path) -> None:
    try:
        with without_padding_notice():
            config_class.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers checks a config's values in many ways
        raise InputError(
            f"{folder / 'config.json'} describes no model that transformers can build: {error}"
        ) from error


def _check_complete(
    model: nn.Module, folder: Path, info: Mapping[str, Any], found: set[str]
) -> None:
    """Raise unless every weight came from the checkpoint, and all of the checkpoint was used."""
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = [f"{name} {expected.get(name, '')}" for name in sorted(info["missing_keys"])]
    misfits = [
        f"{name} is {list(was)}, expected {list(wanted)}"
        for name, was, wanted in sorted(info["mismatched_keys"])
    ]
    extra = [name for name in sorted(found) if _unknown(name, expected)]
    for what, names in (
        ("lacks tensors that its config.json asks for", missing),
        ("has tensors of another shape than its config.json says", misfits),
        ("has tensors for which its config.json leaves no place", extra),
    ):
        if names:
            raise InputError(
                f"{folder} {what}: {some(names)}. Either weights or config.json are not this "
                f"checkpoint's own: take both from one source."
            )


def _unknown(name: str, expected: Mapping[str, Any]) -> bool:
    for old, new in _RENAMED.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name not in expected and not _EXTRA.fullmatch(name)


def _load_processor(folder: Path) -> Any:
    """The processor; or the tokenizer, where the rest is not there or cannot be built; or None.

    transformers' processor for melodies needs torchaudio, which not every torch has; it would
    compute the melody's chroma, which this package does itself.
    """
    from transformers import AutoProcessor, AutoTokenizer

    if not any((folder / file).is_file() for file in ("tokenizer.json", "spiece.model")):
        # transformers would make up an empty tokenizer that reads every word as unknown.
        if (folder / "tokenizer_config.json").is_file():
            raise InputError(
                f"{folder} has a tokenizer_config.json, but neither tokenizer.json nor "
                f"spiece.model, which hold the vocabulary. Download them too."
            )
        return None
    where = {"local_files_only": True, "trust_remote_code": False}
    described = ("processor_config.json", "preprocessor_config.json")
    try:
        if any((folder / file).is_file() for file in described):
            try:
                return AutoProcessor.from_pretrained(folder, **where)
            except ImportError:
                pass
        return AutoTokenizer.from_pretrained(folder, **where)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise InputError(
            f"the tokenizer of {folder} cannot be read: {error}. Download its files again, or "
            f"remove them all, for a lens that takes prompts=None alone."
        ) from error
