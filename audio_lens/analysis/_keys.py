"""Sites and layers as the names of tensors in files."""

import json
from collections.abc import Mapping

from audio_lens.analysis.collect import Key


def name_of(key: Key) -> str:
    """`resid_post.3`, for layer 3 of the residual stream."""
    return f"{key[0]}.{key[1]}"


def key_of(name: str) -> Key:
    """What `name_of` named."""
    site, _, layer = name.rpartition(".")
    return site, int(layer)


def numbers_as_json(numbers: Mapping[Key, float]) -> str:
    """A number for each key, such as a norm."""
    return json.dumps({name_of(key): value for key, value in numbers.items()})


def numbers_of(text: str) -> dict[Key, float]:
    """What `numbers_as_json` wrote."""
    return {key_of(name): value for name, value in json.loads(text).items()}
