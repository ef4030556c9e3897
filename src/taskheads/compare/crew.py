"""Who runs what is compared: this process, or several beside it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from taskheads.compare.bench import Bench, Result, Run
from taskheads.tasks.suite import Suite


class Here(AbstractContextManager):
    """This process, one run after the other."""

    slots = 1

    def __init__(self, bench: Bench) -> None:
        self.bench, self._waiting = bench, list[Run]()

    def put(self, run: Run) -> None:
        """Have it run."""
        self._waiting.append(run)

    def take(self) -> tuple[Run, Result]:
        """A run that has ended."""
        run = self._waiting.pop(0)
        return run, self.bench.run(run)

    def __exit__(self, *_: Any) -> None:
        self._waiting.clear()


class Beside(AbstractContextManager):
    """`slots` processes, which share the cores of this machine among them, and its CUDA devices, where there
    are any (see `places`); each loads the backbone once.

    Left by an exception, it lets every run end after the step that it is in.
    """

    def __init__(self, suite: Suite, backbone: str, cache: Path, slots: int) -> None:
        # A fork of a process whose threads have run would hang in the first matrix product.
        context = multiprocessing.get_context("spawn")
        self.slots = slots
        self._stop = context.Event()
        given = context.SimpleQueue()
        for place in places(slots, os.cpu_count() or 1, devices_here()):
            given.put(place)
        self._pool = ProcessPoolExecutor(
            slots, context, _prepare, (suite, backbone, cache, given, self._stop)
        )
        self._open: dict[Future[Result], Run] = {}

    def put(self, run: Run) -> None:
        """Have it run."""
        self._open[self._pool.submit(_run, run)] = run

    def take(self) -> tuple[Run, Result]:
        """A run that has ended, whichever is the first."""
        ended = next(iter(wait(self._open, return_when=FIRST_COMPLETED).done))
        return self._open.pop(ended), ended.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is not None:
            self._stop.set()
        self._pool.shutdown(cancel_futures=True)


def places(slots: int, cores: int, devices: Sequence[str]) -> list[dict[str, str]]:
    """The environment of each of `slots` processes: its share of the cores, and one of the CUDA devices, by
    the names that CUDA_VISIBLE_DEVICES takes, in turn; more processes than devices share these."""
    threads = {"OMP_NUM_THREADS": str(max(1, cores // slots))}
    if not devices:
        return [threads] * slots
    return [threads | {"CUDA_VISIBLE_DEVICES": devices[at % len(devices)]} for at in range(slots)]


def devices_here() -> list[str]:
    """The CUDA devices that this process may use, by name."""
    import torch

    numbers = [str(at) for at in range(torch.cuda.device_count())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return numbers if visible is None else visible.split(",")[: len(numbers)]


Crew = Here | Beside
_bench: Bench | None = None


def _prepare(suite: Suite, backbone: str, cache: Path, given: Any, stop: Any) -> None:
    global _bench
    # Before CUDA is first asked for, and never after.
    os.environ |= given.get()
    import torch

    from taskheads.backbone.backbone import Backbone
    from taskheads.backbone.cache import FeatureCache

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    loaded = Backbone.load(backbone)
    loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    _bench = Bench(suite, loaded, FeatureCache(cache), stop.is_set)


def _run(run: Run) -> Result:
    assert _bench is not None
    return _bench.run(run)
