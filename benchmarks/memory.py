"""Peak memory of a piece of work, beyond what is there when it begins."""

import gc
import re
from collections.abc import Callable
from pathlib import Path

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak_above(work: Callable[[], object]) -> float | None:
    """GiB; None where the system does not tell."""
    if not _RESET.is_file():
        return None
    gc.collect()
    _RESET.write_text("5")  # the peak starts anew from what is there now
    before = _gib("VmRSS")
    work()
    return _gib("VmHWM") - before


def _gib(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return int(found[1]) / 2**20
