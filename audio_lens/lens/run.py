"""What is being run: rows, branches and positions; and the hook object that tells a hook so."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from audio_lens.errors import SiteError
from audio_lens.lens.layout import NO_PREFIX, Layout
from audio_lens.lens.sites import Site

Branch = Literal["cond", "uncond", "both"]


@dataclass
class Run:
    """One decoder call under way, and what stays the same over the steps of a run."""

    rows: tuple[int, ...]
    """Which of the caller's rows these are; padding copies behind them are not rows."""
    padded: int
    """Rows per branch as the model sees them, padding copies included."""
    branches: tuple[str, ...]
    frame_rate: int
    with_text: tuple[bool, ...]
    """Which rows have a prompt, of all that the caller asked for; `rows` are run together now."""
    layout: Layout = NO_PREFIX
    """Of the first decoder call; known once the prompts are encoded."""
    n_positions: int = 0
    """Positions of the music in all its calls."""
    first_full: int = 0
    """The first position at which every codebook holds a code: behind BOS and the delay ramp."""
    start: int = 0
    """The first position of this call; negative in a prefix, 0 where the music begins."""
    length: int = 0
    step: int = 0
    captured: dict[str, Any] = field(default_factory=dict)
    contexts: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    notes: dict[Any, Any] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Rows the caller asked for in all."""
        return len(self.with_text)

    @property
    def has_text(self) -> bool:
        """Whether any row of the caller's has a prompt."""
        return any(self.with_text)

    def advance(self, *, start: int, stop: int, step: int) -> None:
        """Move on to the next decoder call: over positions `start` to `stop` of the music.

        The first call also runs over the prefix, if there is one.
        """
        self.start = start if step else start - self.layout.n_prefix
        self.length, self.step = stop - self.start, step

    def select(self, branch: str, site: Site) -> tuple[str, ...]:
        """The branches of this run that are meant by `branch` at a site, cond first."""
        if branch == "both":
            return self.branches if len(site.branches) > 1 else site.branches
        return (branch,)

    def part(self, tensor: Tensor, branch: str) -> Tensor:
        """A branch's real rows of a tensor `[branch*padded, ...]`, as a view."""
        start = self.branches.index(branch) * self.padded
        if start == 0 and len(tensor) == len(self.rows):
            return tensor
        return tensor[start : start + len(self.rows)]


class Hook:
    """Tells a hook where it is: passed to it as `hook`.

    Example:
        >>> from audio_lens.testing import random_musicgen
        >>> lens = random_musicgen(n_layers=2)
        >>> def show(tensor, *, hook):
        ...     print(hook.name, hook.layer(), hook.branch, hook.step, hook.seconds)
        >>> with lens.hooks([("blocks.1.hook_mlp_out", show)], branch="cond"):
        ...     _ = lens.generate("a song", seconds=0.02, progress=False)
        blocks.1.hook_mlp_out 1 cond 0 [0.0]
        blocks.1.hook_mlp_out 1 cond 1 [0.02]
        blocks.1.hook_mlp_out 1 cond 2 [0.04]
        blocks.1.hook_mlp_out 1 cond 3 [0.06]
    """

    __slots__ = ("_context", "_run", "branch", "site")

    def __init__(self, site: Site, branch: str, run: Run, context: int) -> None:
        self.site = site
        self.branch = branch
        """`"cond"` or `"uncond"`."""
        self._run = run
        self._context = context

    @property
    def name(self) -> str:
        """The site's full name."""
        return self.site.name

    def layer(self) -> int | None:
        """The block the site belongs to (a method, as in TransformerLens)."""
        return self.site.layer

    @property
    def step(self) -> int:
        """The decoder call: 0 in a forward and in the prefill of a generation."""
        return self._run.step

    @property
    def positions(self) -> range:
        """Positions on this tensor's `pos` (or `query`) axis, counted from where music begins.

        A melody model's prefix has negative ones: -1 is the end of the text.
        """
        start = max(self._run.start, 0) if "audio_pos" in self.site.axes else self._run.start
        return range(start, self._run.start + self._run.length)

    @property
    def layout(self) -> Layout:
        """Where prefix and music lie on this tensor's `pos` axis."""
        has_prefix = self._run.start < 0 and "audio_pos" not in self.site.axes
        return self._run.layout if has_prefix else NO_PREFIX

    @property
    def seconds(self) -> list[float]:
        """The time of each of `positions`; negative in a prefix."""
        return [position / self._run.frame_rate for position in self.positions]

    @property
    def frame_rate(self) -> int:
        """Positions a second."""
        return self._run.frame_rate

    @property
    def first_full(self) -> int:
        """The first position at which every codebook holds a code: behind BOS and the ramp."""
        return self._run.first_full

    @property
    def rows(self) -> tuple[int, ...]:
        """Which of the caller's rows this tensor holds, in order."""
        return self._run.rows

    @property
    def n_rows(self) -> int:
        """How many rows the caller asked for in all."""
        return self._run.n_rows

    @property
    def ctx(self) -> dict[str, Any]:
        """A dict that lives as long as the run, for this hook at this site."""
        return self._run.contexts.setdefault((self._context, self.site.name), {})

    @property
    def notes(self) -> dict[Any, Any]:
        """A dict that lives as long as the run, shared by all hooks."""
        return self._run.notes


def check_branch(branch: str, sites: tuple[Site, ...]) -> None:
    """Raise unless `branch` is a branch that all the sites carry something in."""
    if branch not in ("cond", "uncond", "both"):
        raise SiteError(f'branch must be "cond", "uncond" or "both", got {branch!r}.')
    if branch != "uncond":
        return
    for site in sites:
        if "uncond" not in site.branches:
            raise SiteError(
                f"{site.name} has no unconditional branch: that half attends to no text, so "
                f'nothing there could change its output. Use branch="cond", or a site behind '
                f"it such as cross_attn.hook_z or hook_cross_attn_out."
            )


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Inference tensors cannot be hooked or differentiated: run as under no_grad instead."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield
