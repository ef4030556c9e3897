"""How `attention_heads.py` takes times and memory."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report import timed


def least(work: Callable[[], Any], times: int = 3) -> float:
    """Seconds of processors, at the best of so many times."""
    return min(timed(work)[1].cpu for _ in range(times))


def in_turn(*works: Callable[[], Any], times: int = 5) -> list[float]:
    """The same of several, taking turns, so that what disturbs one disturbs all."""
    found = [[timed(work)[1].cpu for work in works] for _ in range(times)]
    return [min(each) for each in zip(*found, strict=True)]


def watched(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns, and by how many megabytes this process was larger on its way than before."""
    sizes, done = [_resident()], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            sizes.append(_resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return result, (max(sizes) - sizes[0]) / 2**20


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()
