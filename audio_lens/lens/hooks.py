"""Hooks as users give them: pairs of a site and a function, checked and made registrations."""

import inspect
from collections.abc import Sequence
from typing import Any

from audio_lens.errors import HookError
from audio_lens.lens.engine import HookFunction, Registration
from audio_lens.lens.run import check_branch
from audio_lens.lens.sites import SiteTable, Spec

Hooks = Sequence[tuple[Spec, HookFunction]]


def hook_registration(
    table: SiteTable, spec: Spec, fn: HookFunction, branch: str, kind: str
) -> Registration:
    """The registration of a user's hook."""
    if not callable(fn):
        raise HookError(f"the hook at {spec!r} is no function: {fn!r}.")
    sites = table.resolve(spec)
    check_branch(branch, sites)
    _check_signature(spec, fn)
    said = getattr(fn, "__name__", "hook")
    names = ", ".join(site.name for site in sites[:3])
    if isinstance(spec, str) and all(site.shorthand == spec for site in sites):
        names = spec
    elif len(sites) > 3:
        names += f" and {len(sites) - 3} more"
    where = names if branch == "both" else f"{names}, {branch}"
    return Registration(fn, sites, branch, kind, label=lambda row: f"{said} at {where}")


def _check_signature(spec: Spec, fn: HookFunction) -> None:
    try:
        inspect.signature(fn).bind(None, hook=None)
    except TypeError as error:
        raise HookError(
            f"the hook at {spec!r} cannot be called as fn(tensor, hook=hook): {error}. "
            f"Write `def fn(tensor, *, hook):`."
        ) from None
    except ValueError:  # a function without a signature to look at: it will be called as it is
        return


def as_pairs(hooks: Any) -> list[tuple[Spec, HookFunction]]:
    """Hooks as given, checked to be pairs of a site and a function."""
    try:
        pairs = [(spec, fn) for spec, fn in hooks]
        if len(pairs) == 2 and isinstance(hooks[0], str):  # ("ab", fn) unpacks letters
            raise TypeError
    except (TypeError, ValueError):
        raise HookError(
            f"hooks are a list of (site, function) pairs, got {hooks!r}: write [(name, fn)]."
        ) from None
    return pairs
