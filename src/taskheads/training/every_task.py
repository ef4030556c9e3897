"""Work that is done once for each task of a suite, on features that tasks share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

from taskheads.backbone.parallel import side_by_side
from taskheads.heads import head_for
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import TaskData

T = TypeVar("T")

# Tasks at a time. Each holds features of its own rows, and what they are solved with.
_MOST = 4


def for_every_task(
    tasks: Mapping[str, TaskData],
    features: Callable[[str], FrozenFeatures],
    work: Callable[[str], T],
    done: Callable[[int], None] | None = None,
) -> dict[str, T]:
    """What `work` makes of each task, by name, in the order of `tasks`; several tasks at a time.

    Where all tasks are about the same rows, one goes first and makes, with all threads, what depends on the
    features alone: the others find it, and most that is left of them is too small for all threads. `features`
    are those that a task is solved on; `done` is called with the number of tasks that are finished. An error
    of any task is raised here.

    The numbers do not depend on which task is faster: what tasks share is made with as many threads whoever
    makes it.
    """
    first: dict[Hashable, str] = {}
    for name, data in tasks.items():
        own = features(name)
        requests = head_for(data.task).requests_of(data.task)
        first.setdefault((id(own), own.rows(requests, data.splits["train"])), name)
    ahead = list(first.values())
    after = [name for name in tasks if name not in ahead]
    made: dict[str, T] = {}

    def make(name: str) -> None:
        made[name] = work(name)

    finished = 0
    for some in [ahead, after] if len(ahead) == 1 else [[*ahead, *after]]:
        workers = min(torch.get_num_threads(), len(some), _MOST)
        if some is after and features(ahead[0]).dropped:
            workers = 1  # what is made again is then made with as many threads as it was before
        for _ in side_by_side(make, some, workers):
            finished += 1
            if done is not None:
                done(finished)
    return {name: made[name] for name in tasks}
