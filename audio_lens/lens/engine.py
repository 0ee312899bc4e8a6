"""The engine: one place where hooks, caching, interventions and raw traces meet the model.

It is nnsight's interleaver with a table of callbacks in front: as the model hands over a value
at a location, the sites that live there are served in order, first the hooks, then the raw
trace that may be running. Nothing is installed on the model beyond what nnsight installs. For
hooks a module hands over only if something is asked for there, so that each pays for its own
site and not for every module; for a trace, which may ask for anything, they all do.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from nnsight.intervention.interleaver import Interleaver
from nnsight.intervention.source import STATE
from torch import Tensor

from audio_lens.errors import AudioLensError, HookError, InputError, SiteError
from audio_lens.lens.run import Hook, Run
from audio_lens.lens.sites import Site, SiteTable
from audio_lens.lens.writes import check_nan, check_writable, check_write, no_text

HookFunction = Callable[..., Tensor | None]
"""`fn(tensor, *, hook) -> tensor or None`."""

ACTIVE: ContextVar["Engine | None"] = ContextVar("audio_lens_engine", default=None)
"""The engine whose run is under way: how the attention function finds it."""

_ENTRANCES = ("model.decoder.input", "model.text_encoder.input")


@dataclass(frozen=True, eq=False)
class Registration:
    """A function and the sites it is called at."""

    fn: HookFunction
    sites: tuple[Site, ...]
    branch: str
    kind: str = "write"
    """`write` may edit, `read` never does, `backward` sees gradients."""
    prepare: Callable[[Run], None] | None = None
    """Called when a run begins, to refuse what cannot work before work is lost."""
    label: Callable[[int], str] | None = None
    """What it does to a row, in words, for what is made meanwhile; None if it only reads."""


class StopRun(Exception):  # noqa: N818 - it is no error
    """Ends a run early on purpose, carrying what to return."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


class Gate:
    """Lets a module hand its values to the engine while hooks are waiting for them.

    To nnsight's controller it is an interleaver of its own, open while it says it is busy; what
    is asked of it then, the engine answers.
    """

    __slots__ = ("__weakref__", "busy", "engine", "handle", "interleaving")

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        self.handle = engine.handle
        self.interleaving = self.busy = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


class Engine(Interleaver):
    """Dispatches the values of one model to whoever asked for them."""

    def __init__(self) -> None:
        super().__init__()
        self.run: Run | None = None
        self.table: SiteTable | None = None
        self._registrations: list[Registration] = []
        self._planned: dict[str, dict[Site, list[Registration]]] = {}
        self._here: dict[str, list[Site]] = {}
        self._capturing: frozenset[str] = frozenset()
        self._gates: dict[str, Gate] = {}
        self._skipped: Mapping[str, Any] = {}

    def instrument(self, envoy: Any) -> None:
        """Give a module its gate beside nnsight's own way to the engine."""
        super().instrument(envoy)
        gate = self._gates.setdefault(envoy.path, Gate(self))
        vars(envoy._module)[STATE].register(gate, envoy.path)

    # -- what is asked for ------------------------------------------------------------------

    def attach(self, table: SiteTable) -> None:
        """Take over the sites of a model."""
        self.table = table
        for site in table:
            self._here.setdefault(site.location, []).append(site)

    @property
    def active(self) -> bool:
        """Whether any hook is in place."""
        return bool(self._registrations)

    def labels(self, row: int) -> tuple[str, ...]:
        """What is being done to a row, in words."""
        said = [r.label(row) for r in self._registrations if r.label is not None]
        return tuple(label for label in said if label)

    @contextmanager
    def registered(self, registrations: list[Registration]) -> Iterator[None]:
        """Have the registrations in place for the length of a `with` block."""
        self._registrations = [*self._registrations, *registrations]
        self._replan()
        try:
            yield
        finally:
            removed = {id(registration) for registration in registrations}
            self._registrations = [r for r in self._registrations if id(r) not in removed]
            self._replan()

    @contextmanager
    def skipping(self, outputs: Mapping[str, Any]) -> Iterator[None]:
        """Have modules not run but put out known values, for the length of a `with` block.

        Args:
            outputs: By the module's path in the wrapped tree.
        """
        self._skipped = {f"{path}.skip": output for path, output in outputs.items()}
        self._replan()
        try:
            yield
        finally:
            self._skipped = {}
            self._replan()

    def _replan(self) -> None:
        planned: dict[str, dict[Site, list[Registration]]] = {}
        for registration in self._registrations:
            for site in registration.sites:
                planned.setdefault(site.location, {}).setdefault(site, []).append(registration)
        self._planned = {
            location: dict(sorted(sites.items(), key=lambda item: item[0].rank))
            for location, sites in planned.items()
        }
        self._capturing = _needs(site for sites in planned.values() for site in sites)
        asked = {*planned, *self._capturing, *self._skipped}
        if planned:
            asked.update(_ENTRANCES)
        modules = {location.rpartition(".")[0] for location in asked}
        for path, gate in self._gates.items():
            gate.interleaving = gate.busy = path in modules

    # -- a run --------------------------------------------------------------------------------

    @contextmanager
    def running(self, run: Run) -> Iterator[Run]:
        """Dispatch for the length of a run."""
        if self.run is not None:
            raise AudioLensError(
                "the lens is already running: a hook must not call the lens it is hooked into. "
                "Run what the hook needs beforehand."
            )
        if "uncond" not in run.branches and any(at.endswith(":uncond") for at in self.parked):
            raise SiteError(
                "the trace asks for the unconditional half, but this run has no unconditional "
                "half. Give a guidance_scale above 1 and a prompt."
            )
        if self.mediators and len(run.rows) < run.n_rows:
            raise InputError(
                "a trace follows one run, but these rows run in several (row_group, or a melody "
                "model's prompts of different length). Trace rows that run together."
            )
        for registration in self._registrations:
            _check_fits(registration, run)
            if registration.prepare is not None:
                registration.prepare(run)
        self.run = run
        token = ACTIVE.set(self)
        try:
            yield run
        finally:
            ACTIVE.reset(token)
            self.run = None

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> bool:
        swallowed = super().__exit__(exc_type, exc_value, traceback)
        self._replan()
        return swallowed

    def cancel(self) -> None:
        super().cancel()
        self.parked.clear()  # a trace that ended in an error may have asked for more

    def reindex(self) -> None:
        super().reindex()
        if self.mediators and self.table is not None:  # a raw trace may ask for any site
            self._capturing = _needs(self.table)

    # -- dispatch -----------------------------------------------------------------------------

    def handle(self, provider: str, value: Any) -> Any:
        """Serve a location: its sites' hooks and traces, then nnsight's own."""
        run = self.run
        if run is None:
            if self.active and provider in _ENTRANCES:
                raise AudioLensError(
                    "the wrapped model was called directly while hooks are active, so they would "
                    "not act as asked. Call the lens instead: `lens(prompts, codes)`, "
                    "`lens.generate(...)`, or leave the `with` block first."
                )
            return super().handle(provider, value)
        if provider in self._skipped:
            return self._skipped[provider]
        planned = self._planned.get(provider)
        if self.mediators:
            if not self.interleaving:  # a module called by the trace itself is nobody's site
                return value
            for site in self._here.get(provider, ()):
                if planned and site in planned:
                    value, _ = self._dispatch(site, planned[site], value, run)
                value, _ = self._serve(site, value, run)
            value = super().handle(provider, value)
        elif planned is not None:
            for site, registrations in planned.items():
                value, _ = self._dispatch(site, registrations, value, run)
        if provider in self._capturing:
            run.captured[provider] = value
        return value

    def wants(self, *locations: str) -> bool:
        """Whether anyone may ask for these virtual locations."""
        return bool(self.mediators) or any(location in self._planned for location in locations)

    def offer(self, location: str, value: Tensor) -> tuple[Tensor, bool]:
        """Serve a virtual location; returns the tensor and whether it was written."""
        written = False
        if (run := self.run) is None:
            return value, False
        for site in self._here[location]:
            if registrations := self._planned.get(location, {}).get(site):
                value, changed = self._dispatch(site, registrations, value, run)
                written |= changed
            if self.mediators:
                value, changed = self._serve(site, value, run)
                written |= changed
        return value, written

    def _dispatch(
        self, site: Site, registrations: list[Registration], raw: Any, run: Run
    ) -> tuple[Any, bool]:
        """Call the hooks of a site; returns the raw value and whether it was written."""
        port = site.port
        view = port.get(raw, run.captured)
        backward = [r for r in registrations if r.kind == "backward"]
        own = not port.aliased
        tracked = torch.is_grad_enabled() and (view.requires_grad or bool(backward))
        if tracked := tracked and any(r.kind != "read" for r in registrations):
            # Autograd may have saved the raw tensor: hooks that can edit get a copy of it, and
            # the model goes on with that copy, so that gradients flow through what they saw.
            view, own = view.clone(), True
        written = False
        for registration in registrations:
            if registration.kind == "backward":
                continue
            changed = False
            for branch in run.select(registration.branch, site):
                changed |= _call(registration, site, branch, run.part(view, branch), run)
            if changed:
                check_nan(site, view, run)
            written |= changed
        if backward:
            view = _watch_gradient(view, site, backward, run)
        if own and (written or backward or (tracked and port.aliased)):
            raw = port.put(raw, view, run.captured)
        return raw, written or bool(backward)

    def _serve(self, site: Site, raw: Any, run: Run) -> tuple[Any, bool]:
        """Let a raw trace that is parked at this site read or write it."""
        wanted = [(branch, trace_location(site, branch)) for branch in run.select("both", site)]
        for _, location in wanted:
            if location not in self.parked:
                self.counts[location] = self.counts.get(location, 0) + 1
        wanted = [pair for pair in wanted if pair[1] in self.parked]
        if not wanted:
            return raw, False
        view = site.port.get(raw, run.captured)
        own = not site.port.aliased
        if torch.is_grad_enabled() and view.requires_grad:
            view, own = view.clone(), True
        before = view._version
        for branch, location in wanted:
            part = run.part(view, branch)
            new = super().handle(location, part)
            if new is not part:
                check_write(site, part, new)
                part.copy_(new)
        written = view._version != before
        if written:
            check_writable(site, run)
            check_nan(site, view, run)
        if own and (written or view.requires_grad) and site.write != "no":
            raw = site.port.put(raw, view, run.captured)
        return raw, written


def trace_location(site: Site, branch: str) -> str:
    """The name under which a raw trace parks at a site."""
    return site.name if branch == "cond" else f"{site.name}:{branch}"


def _check_fits(registration: Registration, run: Run) -> None:
    """Refuse a registration that this run could not serve, while nothing has run yet."""
    if registration.branch == "uncond" and "uncond" not in run.branches:
        raise SiteError(
            'a hook asks for branch="uncond", but this run has no unconditional half. '
            "Give a guidance_scale above 1 and a prompt, or use another branch."
        )
    if run.has_text or registration.kind != "write" or len(registration.sites) > 1:
        return
    for site in registration.sites:
        # The text encoder does not run, so a hook there would not even be called.
        if site.location.startswith("model.text_encoder"):
            raise HookError(no_text(site))


def _call(registration: Registration, site: Site, branch: str, part: Tensor, run: Run) -> bool:
    hook = Hook(site, branch, run, id(registration))
    if registration.kind == "read":
        registration.fn(part, hook=hook)
        return False
    # What a hook computes with may be saved for its backward pass: under autograd it gets a
    # tensor of its own, which the write then leaves alone.
    given = part.clone() if torch.is_grad_enabled() else part
    version = given._version
    new = registration.fn(given, hook=hook)
    if new is None:
        new = given
    if new is given and given._version == version:
        return False
    check_writable(site, run)
    if new is not part:
        check_write(site, part, new)
        part.copy_(new)
    return True


def _watch_gradient(
    view: Tensor, site: Site, registrations: list[Registration], run: Run
) -> Tensor:
    if site.write == "no":
        raise HookError(f"{site.name} is read-only: no gradient flows through it.")
    if not view.requires_grad:
        view = view.detach().requires_grad_()
    start, length, step = run.start, run.length, run.step

    def on_gradient(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        then = replace(run, start=start, length=length, step=step)
        for registration in registrations:
            for branch in then.select(registration.branch, site):
                part = then.part(gradient, branch)
                if _call(registration, site, branch, part, then):
                    check_nan(site, part, then)
        return gradient

    view.register_hook(on_gradient)
    return view


def _needs(sites: Iterable[Site]) -> frozenset[str]:
    return frozenset(location for site in sites for location in site.port.needs)
