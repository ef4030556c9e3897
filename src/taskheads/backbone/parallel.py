"""Batches, or tasks, side by side on a CPU, each on a thread of its own.

One batch a thread beats one batch spread over all threads: nothing waits at the end of each operation, what
runs on one thread anyway runs beside something else, and a busy machine slows down one batch, not all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def side_by_side(work: Callable[[T], None], batches: Iterable[T], workers: int) -> Iterator[T]:
    """Do `work` on every batch, `workers` of them at a time; yields each batch when it is done, in order.

    Where several run, torch's threads are shared out among them. An exception in `work` is raised here; then,
    and when the caller stops early, no further batch is begun, and those that run are waited for.
    """
    if workers < 2:
        for batch in batches:
            work(batch)
            yield batch
        return
    threads = torch.get_num_threads()
    each = max(1, threads // workers)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,))
    running: deque[tuple[T, Future]] = deque()
    try:
        for batch in batches:
            running.append((batch, pool.submit(work, batch)))
            # One more than run, so that no thread waits for the caller.
            if len(running) > workers:
                yield _finished(*running.popleft())
        while running:
            yield _finished(*running.popleft())
    finally:
        pool.shutdown(cancel_futures=True)
        # The workers' setting is partly the process's (MKL's is).
        torch.set_num_threads(threads)


def _finished(batch: T, future: Future) -> T:
    future.result()
    return batch
