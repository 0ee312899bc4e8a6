"""What may be written at a site, and what is said where it may not."""

from torch import Tensor

from audio_lens.errors import HookError
from audio_lens.lens.run import Run
from audio_lens.lens.sites import Site


def check_write(site: Site, old: Tensor, new: object) -> None:
    """Raise unless `new` can stand where `old` stood."""
    if not isinstance(new, Tensor):
        raise HookError(
            f"{site.name}: a hook returns a tensor or None, got {type(new).__name__}. "
            f"Return None to leave the site as it is."
        )
    for what in ("shape", "dtype", "device"):
        was, now = getattr(old, what), getattr(new, what)
        if was != now:
            shown = (tuple(was), tuple(now)) if what == "shape" else (was, now)
            raise HookError(
                f"{site.name}: a hook returned {what} {shown[1]}, expected {shown[0]} "
                f"[{' '.join(site.axes)}]. Return a tensor like the one it was given."
            )


def check_writable(site: Site, run: Run) -> None:
    """Raise where a write cannot act, whoever writes."""
    if site.write == "no":
        raise HookError(read_only(site))
    if not run.has_text and site.branches == ("cond",):
        raise HookError(no_text(site))


def check_nan(site: Site, tensor: Tensor, run: Run) -> None:
    """Raise where a NaN was written."""
    # A sum is NaN if any element is; infinities can also cancel to NaN, hence the second look.
    if (total := tensor.sum().item()) != total and bool(tensor.isnan().any()):
        raise HookError(
            f"{site.name}: a hook wrote NaN (step {run.step}). Check the hook's arithmetic, for "
            f"instance a division by a zero norm."
        )


def no_text(site: Site) -> str:
    """Why a write cannot act where no text is read."""
    return (
        f"{site.name}: this run has no prompt, so no text is read and writing there would change "
        f"nothing. Give a prompt, or use a site behind it."
    )


def read_only(site: Site) -> str:
    """What to write in place of a site that is only read."""
    stream = f"{site.name.rsplit('.', 1)[0]}.hook_normalized"
    return f"{site.name} is read-only: write {stream} or the residual stream before it instead."
