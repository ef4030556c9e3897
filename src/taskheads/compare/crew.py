"""Who runs what is compared: this process, or several beside it."""

from __future__ import annotations

import multiprocessing
import os
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
    """`slots` processes, which share the cores of this machine among them; each loads the backbone once.

    Left by an exception, it lets every run end after the step that it is in.
    """

    def __init__(self, suite: Suite, backbone: str, cache: Path, slots: int) -> None:
        # A fork of a process whose threads have run would hang in the first matrix product.
        context = multiprocessing.get_context("spawn")
        self.slots = slots
        self._stop = context.Event()
        threads = max(1, (os.cpu_count() or 1) // slots)
        self._pool = ProcessPoolExecutor(
            slots, context, _prepare, (suite, backbone, cache, threads, self._stop)
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


Crew = Here | Beside
_bench: Bench | None = None


def _prepare(suite: Suite, backbone: str, cache: Path, threads: int, stop: Any) -> None:
    global _bench
    import torch

    from taskheads.backbone.backbone import Backbone
    from taskheads.backbone.cache import FeatureCache

    torch.set_num_threads(threads)
    _bench = Bench(suite, Backbone.load(backbone), FeatureCache(cache), stop.is_set)


def _run(run: Run) -> Result:
    assert _bench is not None
    return _bench.run(run)
