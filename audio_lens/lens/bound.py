"""A lens bound to its prompts: what TransformerLens's own tools can drive."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from audio_lens.errors import InputError
from audio_lens.lens.config import LensConfig
from audio_lens.lens.forward import as_tokens
from audio_lens.lens.rows import as_prompts

if TYPE_CHECKING:
    from audio_lens.lens.cache import ActivationCache
    from audio_lens.lens.lens import AudioLens


class BoundLens:
    """TransformerLens's `TransformerLensModel` protocol over a lens and fixed prompts.

    Its tools pass tokens and nothing else, so the prompts are bound beforehand, and tokens are
    delayed, one column per position, so that their position axis leaves none out. Logits come
    back aligned to codes, as from the lens.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> bound = lens.bind("a song")
        >>> tokens = bound.to_tokens(lens.random_codes(frames=5))
        >>> tokens.shape, bound.run_with_hooks(tokens).shape
        (torch.Size([1, 4, 8]), torch.Size([1, 4, 5, 256]))
    """

    def __init__(self, lens: "AudioLens", prompts: Any, guidance_scale: float) -> None:
        self._lens = lens
        self._prompts = prompts
        self._guidance_scale = guidance_scale
        prefixes = {lens._conditioner.n_prefix(prompt) for prompt in as_prompts(prompts)}
        if len(prefixes) > 1:
            raise InputError(
                f"the prompts' prefixes have {sorted(prefixes)} positions, so activations do not "
                f"line up: bind prompts of one length."
            )
        (self._n_prefix,) = prefixes

    @property
    def cfg(self) -> LensConfig:
        """The lens's configuration."""
        return self._lens.cfg

    def to_tokens(
        self, codes: Int[Tensor, "batch codebook frame"]
    ) -> Int[Tensor, "batch codebook pos"]:
        """Codes with the delay pattern applied, behind as many BOS as the prefix has positions.

        So the columns of tokens are the positions of activations, in melody models too.
        """
        tokens = as_tokens(self._lens, codes)
        return pad(tokens, (self._n_prefix, 0), value=self.cfg.bos)

    def __call__(
        self, tokens: Int[Tensor, "batch codebook pos"], **kwargs: Any
    ) -> Float[Tensor, "batch codebook frame vocab"]:
        return self.run_with_hooks(tokens, **kwargs)

    def run_with_hooks(
        self,
        tokens: Int[Tensor, "batch codebook pos"],
        fwd_hooks: Sequence[tuple[Any, Any]] = (),
        bwd_hooks: Sequence[tuple[Any, Any]] = (),
        **kwargs: Any,
    ) -> Float[Tensor, "batch codebook frame vocab"]:
        """A forward over delayed tokens, hooked.

        Under guidance hooks act on the conditional half, which is the one that its cache holds.
        """
        return self._lens.run_with_hooks(
            self._prompts,
            tokens=self._without_prefix(tokens),
            fwd_hooks=fwd_hooks,
            bwd_hooks=bwd_hooks,
            guidance_scale=self._guidance_scale,
            **{"branch": "cond", **kwargs},
        )

    def run_with_cache(
        self, tokens: Int[Tensor, "batch codebook pos"], **kwargs: Any
    ) -> tuple[Float[Tensor, "batch codebook frame vocab"], "ActivationCache"]:
        """A forward over delayed tokens, with its activations."""
        return self._lens.run_with_cache(
            self._prompts,
            tokens=self._without_prefix(tokens),
            guidance_scale=self._guidance_scale,
            **kwargs,
        )

    def _without_prefix(
        self, tokens: Int[Tensor, "batch codebook pos"]
    ) -> Int[Tensor, "batch codebook audio_pos"]:
        if not (tokens[..., : self._n_prefix] == self.cfg.bos).all():
            raise InputError("tokens lack the prefix's columns: make them with to_tokens(codes).")
        return tokens[..., self._n_prefix :]
