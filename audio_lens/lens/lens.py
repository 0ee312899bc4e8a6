"""AudioLens: a MusicGen whose every site is named, readable and writable."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from audio_lens.audio.clip import Clip
from audio_lens.errors import AudioLensError, InputError
from audio_lens.lens.attention import use_lens_attention
from audio_lens.lens.bound import BoundLens
from audio_lens.lens.conditioning import conditioner
from audio_lens.lens.config import HFModule, LensConfig
from audio_lens.lens.decode import Sampling
from audio_lens.lens.delay import DelayPattern
from audio_lens.lens.engine import (
    Engine,
)
from audio_lens.lens.forward import Metric, as_tokens, forward, forward_with_cache
from audio_lens.lens.generation import Generation
from audio_lens.lens.hooks import Hooks, as_pairs, hook_registration
from audio_lens.lens.intervention import Intervention
from audio_lens.lens.loading import check_in_memory, check_model_type, load_musicgen
from audio_lens.lens.musicgen_sites import musicgen_sites
from audio_lens.lens.placement import Placement
from audio_lens.lens.recording import Recording
from audio_lens.lens.rows import Prompts
from audio_lens.lens.run import Branch
from audio_lens.lens.sites import Spec
from audio_lens.lens.traces import Traces
from audio_lens.lens.weights import Weights

if TYPE_CHECKING:
    from audio_lens.lens.cache import ActivationCache
    from audio_lens.lens.check import CheckReport

Codes = Int[Tensor, "#batch codebook frame"]
Tokens = Int[Tensor, "#batch codebook pos"]
Logits = Float[Tensor, "batch codebook frame vocab"]


class AudioLens(Weights, Placement, Traces):
    """A MusicGen wrapped with nnsight, its sites named as in TransformerLens.

    Example:
        >>> from audio_lens import AudioLens
        >>> lens = AudioLens.from_pretrained("toy")
        >>> clips = lens.generate("a fast bright organ melody", seconds=0.5, progress=False)
        >>> logits, cache = lens.run_with_cache(clips[0].prompt, clips[0].codes[None])
        >>> cache["resid_post", 2].shape
        torch.Size([1, 28, 160])
    """

    AUTO_CLASS = "MusicgenForConditionalGeneration"

    def __init__(
        self,
        model: str | Path | HFModule,
        processor: Any = None,
        *,
        name: str = "",
        revision: str | None = None,
        **options: Any,
    ) -> None:
        if isinstance(model, str | Path):
            name = name or str(model)
            options.pop("dispatch", None)  # a server's word for loading weights, which is always
            model, processor = load_musicgen(model, revision=revision, **options)
        model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        name = name or getattr(model, "name_or_path", "") or type(model).__name__
        check_model_type(model_type, name)
        check_in_memory(model)
        model.eval()  # dropout would break every identity this lens promises
        use_lens_attention(model.decoder)
        engine = Engine()
        super().__init__(model, interleaver=engine, revision=revision)
        self.repo_id = name
        self.processor = processor
        self.sites = musicgen_sites(model)
        engine.attach(self.sites)
        self._engine = engine
        self._persistent_id = f"AudioLens:{name}"
        # Melody processors need torchaudio; their tokenizer alone is enough here.
        tokenizer = getattr(processor, "tokenizer", processor)
        self._conditioner = conditioner(model, tokenizer, engine)
        self._describe()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        allow_pickle: bool = False,
        **options: Any,
    ) -> "AudioLens":
        """Load a checkpoint by hub name or local folder, or `"toy"`, `"toy-melody"`, which ship.

        Args:
            name: For instance `"facebook/musicgen-small"`. Only a hub name uses the network.
            revision: Branch, tag or commit on the hub.
            device: Where to put it.
            dtype: Floating-point type of the weights.
            allow_pickle: Also read weights that were pickled, where there are no others.
            options: Passed on to transformers' `from_pretrained`, such as `device_map`.

        Raises:
            InputError: nothing there that is a MusicGen, or a damaged or foreign part of one;
                see docs/loading.md.
        """
        if device is not None and "device_map" in options:
            raise InputError("give device or device_map, not both: each says where weights go.")
        if dtype is not None:
            options["dtype"] = dtype
        model, processor = load_musicgen(
            name, revision=revision, allow_pickle=allow_pickle, **options
        )
        if device is not None:
            model = model.to(device)
        return cls(model, processor, name=str(name), revision=revision)

    @classmethod
    def from_model(cls, model: HFModule, processor: Any = None, *, name: str = "") -> "AudioLens":
        """Wrap a `MusicgenForConditionalGeneration` that is in memory.

        The model is put in evaluation mode and its decoder's attention is routed through the
        lens, on the same kernel; nothing else of it changes.
        """
        return cls(model, processor, name=name)

    # -- what it is -----------------------------------------------------------------------------

    @property
    def hf_model(self) -> HFModule:
        """The wrapped transformers model.

        Raises:
            AudioLensError: hooks are active, which a direct call would not obey as asked.
        """
        if self._engine.active:
            raise AudioLensError(
                "lens.hf_model is out of reach while hooks are active, because calling it would "
                "bypass the lens. Use `lens(prompts, codes)` or `lens.generate(...)`, or leave "
                "the `with` block first."
            )
        return self._module

    @property
    def has_tokenizer(self) -> bool:
        """Whether prompts can be read; without a processor only prompts=None works."""
        return self._conditioner.has_tokenizer

    def _describe(self) -> None:
        self.cfg = LensConfig.of(self._module, self.repo_id)
        self.delay = DelayPattern(self.cfg.delays, self.cfg.bos, self.cfg.frame_rate)

    def text_tokens(self, prompt: str) -> list[str]:
        """The text tokens of a prompt: the `token` axis of cross-attention."""
        return self._conditioner.tokens(prompt)

    def random_codes(self, *, frames: int, batch: int = 1, seed: int = 0) -> Codes:
        """Codes drawn uniformly, for tests and shapes."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, self.cfg.n_codebooks, frames)
        codes = torch.randint(self.cfg.d_vocab, shape, generator=generator)
        return codes.to(self.cfg.device)

    def check(self) -> "CheckReport":
        """Read and write every site and report what does not behave; prints as a table."""
        from audio_lens.lens.check import check

        return check(self)

    def bind(self, prompts: Prompts, *, guidance_scale: float = 1.0) -> BoundLens:
        """This lens with its prompts fixed, as TransformerLens's tools expect a model."""
        return BoundLens(self, prompts, guidance_scale)

    # -- forward ----------------------------------------------------------------------------------

    def __call__(
        self,
        prompts: Prompts,
        codes: Codes | None = None,
        *,
        guidance_scale: float = 1.0,
        tokens: Tokens | None = None,
    ) -> Logits:
        """Teacher-forced logits: `[b, k, f]` predicts `codes[b, k, f]`.

        Args:
            prompts: One text, one per row, or None for unconditional.
            codes: Undelayed; a single row serves every prompt.
            guidance_scale: Above 1, both branches are run and guided as in generation.
            tokens: Delayed tokens instead of codes, as `bind(prompts).to_tokens(codes)` makes.

        Raises:
            InputError: prompts or codes that cannot be run.
        """
        return forward(self, prompts, as_tokens(self, codes, tokens), guidance_scale)

    def run_with_hooks(
        self,
        prompts: Prompts,
        codes: Codes | None = None,
        *,
        fwd_hooks: Hooks = (),
        bwd_hooks: Hooks = (),
        branch: Branch = "both",
        guidance_scale: float = 1.0,
        tokens: Tokens | None = None,
    ) -> Logits:
        """`lens(prompts, codes)` with hooks in place; see `hooks`."""
        with self.hooks(fwd_hooks, bwd_hooks=bwd_hooks, branch=branch):
            return self(prompts, codes, guidance_scale=guidance_scale, tokens=tokens)

    def run_with_cache(
        self,
        prompts: Prompts,
        codes: Codes | None = None,
        *,
        names_filter: Spec | None = None,
        stop_at_layer: int | None = None,
        incl_bwd: Metric = False,
        device: str | torch.device | None = None,
        remove_batch_dim: bool = False,
        guidance_scale: float = 1.0,
        tokens: Tokens | None = None,
    ) -> tuple[Tensor, "ActivationCache"]:
        """`lens(prompts, codes)` and the activations on the way.

        Args:
            prompts: As for the lens itself.
            codes: As for the lens itself.
            names_filter: Sites to keep: a name, shorthand, glob, filter or list; None keeps all.
            stop_at_layer: Stop before this block and return the stream entering it instead of
                logits.
            incl_bwd: Also keep gradients, under the site's name and `_grad`: of the mean negative
                log-probability of the codes, or of what a function makes of the logits.
            device: Where to keep the activations.
            remove_batch_dim: Drop the batch axis of a single row.
            guidance_scale: Above 1 the cache holds both branches.
            tokens: Delayed tokens instead of codes.
        """
        return forward_with_cache(
            self,
            prompts,
            codes,
            names_filter=names_filter,
            stop_at_layer=stop_at_layer,
            metric=incl_bwd,
            device=device,
            remove_batch_dim=remove_batch_dim,
            guidance_scale=guidance_scale,
            tokens=tokens,
        )

    # -- hooks and interventions -----------------------------------------------------------------

    @contextmanager
    def hooks(
        self, fwd_hooks: Hooks = (), *, bwd_hooks: Hooks = (), branch: Branch = "both"
    ) -> Iterator["AudioLens"]:
        """Hooks in place for forward and generation alike.

        A hook is `fn(tensor, *, hook) -> tensor | None`, called once per branch, cond first;
        in-place edits count whether or not it returns the tensor. Backward hooks get the
        gradient at the site, when something is differentiated.

        Example:
            >>> def silence(tensor, *, hook):
            ...     tensor[:, :, 3] = 0
            >>> with lens.hooks([("blocks.2.attn.hook_z", silence)]):  # doctest: +SKIP
            ...     lens.generate("a piano melody")
        """
        registrations = [
            hook_registration(self.sites, spec, fn, branch, kind)
            for kind, pairs in (("write", fwd_hooks), ("backward", bwd_hooks))
            for spec, fn in as_pairs(pairs)
        ]
        with self._engine.registered(registrations):
            yield self

    @contextmanager
    def intervene(self, *interventions: Intervention) -> Iterator["AudioLens"]:
        """Interventions in place for forward and generation alike; they add up in order."""
        for given in interventions:
            if not isinstance(given, Intervention):
                raise InputError(f"intervene() takes Intervention objects, got {given!r}.")
        readers = [need for given in interventions for s in given.schedules for need in s.needs]
        bound = [each.bind(self.sites) for each in (*dict.fromkeys(readers), *interventions)]
        with self._engine.registered(bound):
            yield self

    def steer(self, direction: Any, **options: Any) -> Any:
        """A direction added while the `with` block lasts; see `audio_lens.steering.steer`."""
        from audio_lens.steering import steer

        return steer(self, direction, **options)

    def sweep(self, prompts: Prompts, **options: Any) -> Any:
        """Clips over prompts, seeds and coefficients; see `audio_lens.steering.sweep`."""
        from audio_lens.steering import sweep

        return sweep(self, prompts, **options)

    def __repr__(self) -> str:
        cfg = self.cfg
        return (
            f"AudioLens({cfg.model_name!r}: {cfg.n_layers} layers, width {cfg.d_model}, "
            f"{cfg.n_heads} heads, {cfg.n_codebooks} codebooks of {cfg.d_vocab}, "
            f"{len(self.sites)} sites, {cfg.dtype} on {cfg.device})"
        )

    # -- sound ----------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompts = None,
        *,
        seconds: float = 8.0,
        seed: int | Sequence[int] = 0,
        guidance_scale: float = 3.0,
        do_sample: bool = True,
        temperature: float = 1.0,
        top_k: int = 250,
        prefix: Clip | Sequence[Clip] | Codes | None = None,
        names_filter: Spec | None = None,
        row_group: int | None = None,
        progress: bool = True,
    ) -> Any:
        """Make clips, one per row, under whatever hooks are in place.

        Args:
            prompts: One text, one per row, or None for unconditional music.
            seconds: Length of the clips, prefix included.
            seed: One for every row, or one per row. A row's randomness is its seed's alone.
            guidance_scale: Classifier-free guidance; 1 is off, and so it is without a prompt.
            do_sample: False takes the likeliest code each time.
            temperature: Flattens (above 1) or sharpens the distribution that is drawn from.
            top_k: Draw from so many likeliest codes.
            prefix: A clip, one per row, or codes to continue.
            names_filter: Also return the activations of these sites, over all positions.
            row_group: Run rows in groups of exactly this size, so that a row's result is
                bit-equal however it is batched; slower where groups are small.
            progress: Show a progress bar.

        Returns:
            A list of clips, in order of rows; with `names_filter` a pair of it and the cache.

        Raises:
            InputError: prompts, seconds, seeds or a prefix that cannot be run.
        """
        generation = Generation.plan(
            self,
            prompts,
            seconds=seconds,
            seed=seed,
            sampling=Sampling(guidance_scale, do_sample, temperature, top_k),
            prefix=prefix,
            row_group=row_group,
        )
        if names_filter is None:
            return generation.run(progress=progress)
        recording = Recording(self.sites.resolve(names_filter), None)
        with self._engine.registered(recording.registrations()):
            clips = generation.run(progress=progress)
        return clips, recording.cache(self)

    def encode(
        self, audio: Clip | str | Path | Any | Sequence[Any], *, sample_rate: float | None = None
    ) -> Codes:
        """Codes of clips, audio files or arrays; clips that have codes keep them.

        Args:
            audio: One or several of: a `Clip`, a path, an array `[sample]` or `[channel sample]`.
            sample_rate: Of arrays, in Hz; other rates than the model's are resampled.
        """
        from audio_lens.lens.encoding import encode

        return encode(self, audio, sample_rate)
