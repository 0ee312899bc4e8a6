"""Seconds of work, and how a measurement is said."""

import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def say(name: str, value: str, target: str = "", beside: str = "") -> None:
    """One line: what was measured, what was aimed at, and what else is to be known."""
    beside = f"({beside})" if beside else ""
    print(
        f"{name:<62}{value:>8}  {target and 'target ' + target:<12} {beside}".rstrip(), flush=True
    )
