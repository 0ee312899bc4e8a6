"""Where directions come from: activations at two poles, and the ways to make a vector of them."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from audio_lens.analysis._keys import key_of, name_of, numbers_as_json, numbers_of
from audio_lens.analysis.collect import Activations, Key, collect
from audio_lens.analysis.directions import Direction
from audio_lens.analysis.yardsticks import measured
from audio_lens.errors import InputError
from audio_lens.provenance import prompts_sha256, versions

if TYPE_CHECKING:
    from audio_lens.lens.lens import AudioLens


FORMAT = "audio_lens.poles.1"


@dataclass(frozen=True, eq=False)
class Poles:
    """Activations at a concept's two poles; matched prompts stand at the same place in both."""

    positive: Activations
    negative: Activations
    texts: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """The prompts, where they are known."""

    def __post_init__(self) -> None:
        if self.positive.values.keys() != self.negative.values.keys():
            raise InputError("the poles were gathered at different sites or layers.")

    @property
    def pairs(self) -> dict[Key, Tensor]:
        """The difference of each matched pair, [pair *site]; of means, where every step was kept.

        Raises:
            InputError: as many prompts at each pole are needed for pairs.
        """
        found = {}
        for key, values in self.positive.values.items():
            other = self.negative.values[key]
            if len(values) != len(other):
                raise InputError(
                    f"the poles have {len(values)} and {len(other)} prompts: pairs need as many of "
                    f"each, matched one to one."
                )
            one, two = (v.mean(1) if self._by_step else v for v in (values, other))
            found[key] = one - two
        return found

    def rows(self, key: Key) -> tuple[Float[Tensor, "row *site"], Float[Tensor, "row *site"]]:
        """Activations at each pole, every step a row of its own where they were kept."""
        sides = self.positive.values[key], self.negative.values[key]
        one, two = (v.flatten(0, 1) if self._by_step else v for v in sides)
        return one, two

    @property
    def _by_step(self) -> bool:
        return self.positive.made.get("pool") == "every_step"

    def at(self, site: str) -> "Poles":
        """Of one of the sites that were gathered."""
        sides = [
            replace(side, values={key: v for key, v in side.values.items() if key[0] == site})
            for side in (self.positive, self.negative)
        ]
        return replace(self, positive=sides[0], negative=sides[1])

    def difference_in_means(self) -> Direction:
        """The mean over positive prompts minus that over negative ones."""
        vectors = {}
        for key in self.positive.values:
            positive, negative = self.rows(key)
            vectors[key] = positive.mean(0) - negative.mean(0)
        return self._direction(vectors, "difference_in_means")

    def principal_component(self) -> Direction:
        """The axis along which pairs differ most, at the length of the mean difference.

        The first principal component of the pairs' differences, uncentred, so that what all pairs
        share counts (representation engineering: Zou et al. 2023, arXiv 2310.01405). Its sign is
        that of the mean difference.
        """
        vectors = {}
        for key, pairs in self.pairs.items():
            flat = pairs.flatten(1)
            axis = torch.linalg.svd(flat, full_matrices=False).Vh[0]
            along = flat.mean(0) @ axis
            vectors[key] = (axis * along.sign() * flat.mean(0).norm()).view(pairs.shape[1:])
        return self._direction(vectors, "principal_component")

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, its metadata JSON."""
        from safetensors.torch import save_file

        Path(path).parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        keys = [name_of(key) for key in self.positive.values]  # in order, as files are not
        said = {"format": FORMAT, "texts": json.dumps(self.texts), "keys": json.dumps(keys)}
        for pole, side in (("positive", self.positive), ("negative", self.negative)):
            tensors |= {
                f"{pole}.{name_of(key)}": values.contiguous() for key, values in side.values.items()
            }
            said[f"{pole}.norms"] = numbers_as_json(side.typical_norms)
            said[f"{pole}.made"] = json.dumps(dict(side.made))
        save_file(tensors, path, metadata=said)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "Poles":
        """Read a file that `save` wrote.

        Raises:
            InputError: no such file, or no poles in it.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise InputError(f"no poles at {path}: there is no such file.")
        try:
            with safe_open(str(path), framework="pt") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise InputError(f"{path} is no safetensors file: {error}.") from error
        if said.get("format") != FORMAT:
            raise InputError(f"{path} has the format {said.get('format')!r}, not {FORMAT!r}.")
        sides = []
        for pole in ("positive", "negative"):
            values = {key_of(name): tensors[f"{pole}.{name}"] for name in json.loads(said["keys"])}
            norms = numbers_of(said[f"{pole}.norms"])
            sides.append(Activations(values, norms, json.loads(said[f"{pole}.made"])))
        texts = tuple(tuple(texts) for texts in json.loads(said["texts"]))
        return cls(sides[0], sides[1], texts=(texts[0], texts[1]))

    def _direction(self, vectors: Mapping[Key, Tensor], method: str) -> Direction:
        """A direction that knows where it came from, and what lengths mean there."""
        made = dict(self.positive.made)
        rows = made.pop("rows", None)
        if rows is not None:
            made |= {"n_positive": rows, "n_negative": self.negative.made.get("rows")}
        if any(self.texts):
            made["prompts_sha256"] = prompts_sha256(self.texts)
        made |= {"method": method, **versions()}
        return measured(Direction(vectors, provenance=made), self.positive, self.negative)


def gather_poles(
    lens: "AudioLens",
    *,
    positive: Sequence[str],
    negative: Sequence[str],
    **gathering: Any,
) -> Poles:
    """Activations of two sets of prompts, for directions, controls and stability.

    Args:
        lens: The model.
        positive: Prompts of the pole that directions point to.
        negative: Prompts of the other pole; matched ones differ in the pole's word only.
        gathering: `site`, `layers`, `pool`, `branch`, `codes`, `seconds`, `seed`,
            `guidance_scale` and others of `audio_lens.analysis.collect.collect`.

    Raises:
        InputError: an empty pole, or poles that do not differ.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> poles = gather_poles(
        ...     lens, positive=["fast"], negative=["slow"], seconds=0.2, progress=False)
        >>> poles.difference_in_means().layers
        (0, 1)
    """
    _check_poles(lens, positive, negative)
    return Poles(
        collect(lens, positive, **gathering),
        collect(lens, negative, **gathering),
        texts=(tuple(positive), tuple(negative)),
    )


def difference_in_means(
    lens: "AudioLens",
    *,
    positive: Sequence[str],
    negative: Sequence[str],
    site: str | Sequence[str] = "resid_post",
    layers: int | Sequence[int] | None = None,
    **gathering: Any,
) -> Direction:
    """The mean activation over positive prompts minus that over negative ones, per layer.

    The method of "Activation Patching for Interpretable Steering in Music Generation"
    (arXiv 2504.04479) and, earlier, of contrastive activation addition (arXiv 2312.06681).

    Args:
        lens: The model.
        positive: Prompts of the pole that the direction points to.
        negative: Prompts of the other pole; matched ones differ in the pole's word only.
        site: A site that belongs to layers and has a position axis.
        layers: Some layers only.
        gathering: `pool`, `branch`, `codes`, `seconds`, `seed`, `guidance_scale` and others of
            `audio_lens.analysis.collect.collect`.

    Raises:
        InputError: an empty pole, or poles that do not differ.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2, d_model=64)
        >>> faster = difference_in_means(
        ...     lens, positive=["fast"], negative=["slow"], seconds=0.2, progress=False
        ... )
        >>> faster.layers, faster.layer(1).shape
        ((0, 1), torch.Size([64]))
    """
    return gather_poles(
        lens, positive=positive, negative=negative, site=site, layers=layers, **gathering
    ).difference_in_means()


WAYS = ("free", "same_codes", "first_step", "eos_text")


def ways_of_taking(
    lens: "AudioLens",
    *,
    positive: Sequence[str],
    negative: Sequence[str],
    ways: Sequence[str] | None = None,
    seconds: float = 6.0,
    seed: int = 0,
    **gathering: Any,
) -> dict[str, Direction]:
    """The same difference in means, taken in several ways: do they agree?

    Args:
        lens: The model.
        positive: Prompts of one pole.
        negative: Prompts of the other.
        ways: `"free"` (each pole generates its own music), `"same_codes"` (both read the same
            codes, those that the positive prompts generate, so that the text alone differs and
            cause is not mixed with consequence), `"first_step"` (one decoder step, in front of any
            music), `"eos_text"` (the end of the text in a melody model's prefix, as arXiv
            2504.04479). All that the model has if None.
        seconds: Length of the music.
        seed: Of the generation.
        gathering: `site`, `layers`, `branch`, `guidance_scale`, ... of `collect`.

    Raises:
        InputError: a way that does not exist, or that this model does not have.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> found = ways_of_taking(
        ...     lens, positive=["fast"], negative=["slow"], seconds=0.2, progress=False)
        >>> list(found)
        ['free', 'same_codes', 'first_step']
    """
    has_prefix = bool(lens.cfg.chroma_length)
    chosen = WAYS[: 4 if has_prefix else 3] if ways is None else tuple(ways)
    for way in chosen:
        if way not in WAYS:
            raise InputError(f"no way {way!r}: there are {', '.join(WAYS)}.")
    over_time: dict[str, Any] = {n: gathering.pop(n) for n in ("pool", "window") if n in gathering}
    asked = {"positive": positive, "negative": negative, **gathering}
    options: dict[str, dict[str, Any]] = {
        "free": {"seconds": seconds, "seed": seed, **over_time},
        "first_step": {"pool": "first_step", "seed": seed},
        "eos_text": {"pool": "end_of_text", "seed": seed},
    }
    if "same_codes" in chosen:
        clips = lens.generate(
            list(positive),
            seconds=seconds,
            seed=seed,
            guidance_scale=gathering.get("guidance_scale", 3.0),
            progress=gathering.get("progress", True),
        )
        codes = torch.stack([clip.codes for clip in clips if clip.codes is not None])
        options["same_codes"] = {"codes": codes.to(lens.cfg.device), **over_time}
    return {way: difference_in_means(lens, **asked, **options[way]) for way in chosen}


def _check_poles(lens: "AudioLens", positive: Sequence[str], negative: Sequence[str]) -> None:
    for pole, prompts in (("positive", positive), ("negative", negative)):
        if isinstance(prompts, str) or len(prompts) == 0:
            raise InputError(f"{pole} must be a list of at least one prompt, got {prompts!r}.")
    if list(positive) == list(negative):
        raise InputError("the positive and negative prompts are the same: nothing to subtract.")
    _warn_of_lengths(lens, positive, negative)


def _warn_of_lengths(lens: "AudioLens", positive: Sequence[str], negative: Sequence[str]) -> None:
    """A prefix's length moves every position behind it, which looks like a concept."""
    counts = [sorted(lens._conditioner.n_prefix(p) for p in pole) for pole in (positive, negative)]
    if counts[0] != counts[1]:
        warnings.warn(
            "the poles' prompts have different numbers of text tokens. In a melody model these "
            "are positions, so the difference also holds that of their lengths: match the "
            "prompts' token counts (lens.text_tokens).",
            stacklevel=4,
        )
