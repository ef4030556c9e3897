"""Requests that arrive together, answered together: a bounded queue in front of a few threads."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch

from taskheads.serve.cache import Answer, AnswerCache, Row
from taskheads.serve.problems import Busy, Problem
from taskheads.serve.turns import Turns
from taskheads.serve.versions import Version
from taskheads.serve.ways import Way

# English has about four characters to a token, and a row has two tokens of its own.
_CHARACTERS = 4
_OWN_TOKENS = 2
# A batch is not split over idle threads below this: small ones cost more.
_FEWEST_TOKENS = 128
_MOST_WORKERS = 4
# Answers to a batch set off as many requests, which arrive one by one: it pays to wait while they do.
_MOST_LINGERS = 4
# Of one request: what is done for each row before it waits is done on the event loop.
_MOST_ROWS = 4096
_MOST_SECONDS = 60


@dataclass(eq=False)
class Asked:
    """A request's rows, of which those that the cache did not have wait to be answered."""

    version: Version
    rows: Sequence[Row]
    tasks: tuple[str, ...]
    way: Way
    caller: Hashable
    done: asyncio.Future[list[Answer]]
    answers: list[Answer | Exception | None] = field(default_factory=list)
    left: int = 0

    def finish(self, at: int, answer: Answer | Exception) -> None:
        """Take the answer to a row, or why there is none; on the event loop alone."""
        self.answers[at] = answer
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(self.answers)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A row in the queue."""

    asked: Asked
    at: int
    tokens: int

    @property
    def row(self) -> Row:
        return self.asked.rows[self.at]


class Batcher:
    """Answers rows of many requests in shared batches.

    A thread that is free takes, in turns, rows up to `batch_tokens` (its share of what waits, where several
    threads are free), once so many wait or no row has come for `linger` seconds. Rows that need the same
    passes of the same version make one ragged batch. Where answering fails, the batch is halved until the
    rows at fault stand alone: no request suffers from another.

    Parameters
    ----------
    waiting_tokens, batch_tokens, linger, workers: see `Settings`.
    cache: answers that need not be computed again. observe: called with (rows, seconds) after every batch.

    Attributes
    ----------
    tokens: of rows that wait, about. busy: how many threads are answering.
    """

    def __init__(
        self,
        *,
        waiting_tokens: int,
        batch_tokens: int,
        linger: float,
        cache: AnswerCache,
        workers: int | None = None,
        observe: Callable[[int, float], None] = lambda rows, seconds: None,
    ) -> None:
        self.most_tokens, self.batch_tokens, self.linger = waiting_tokens, batch_tokens, linger
        self.cache, self.tokens = cache, 0
        threads = torch.get_num_threads()
        self.workers = workers or min(threads, _MOST_WORKERS)
        self._threads_each = max(1, threads // self.workers)
        self._observe = observe
        self._turns: Turns[_Waiting] = Turns()
        # Of a thread without work, and of one that waits for more of it: each is woken for its own reason.
        self._lock = threading.Lock()
        self._some, self._enough = threading.Condition(self._lock), threading.Condition(self._lock)
        self.busy, self._closed = 0, False
        self._rate = 0.0
        self._pool: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to answer; of the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._pool = [
            threading.Thread(target=self._work, name=f"answers-{number}", daemon=True)
            for number in range(self.workers)
        ]
        for thread in self._pool:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether every thread is still there."""
        return all(thread.is_alive() for thread in self._pool)

    async def close(self) -> None:
        """Answer what was taken, then stop."""
        with self._lock:
            self._closed = True
            self._some.notify_all()
            self._enough.notify_all()
        for thread in self._pool:
            await asyncio.to_thread(thread.join)

    def ask(
        self, version: Version, rows: Sequence[Row], tasks: Sequence[str], *, way: Way, caller: Hashable
    ) -> Asked:
        """Have these rows answered in some way; `Asked.done` will have {task: answer} for each, or the
        exception that there was instead. Cancelling `done` takes back the rows that still wait.

        Raises Busy when no more rows can wait now, Problem for more rows than ever could.
        """
        if len(rows) > _MOST_ROWS:
            raise _too_much()
        asked = Asked(version, rows, tuple(tasks), way, caller, self._loop.create_future())
        asked.answers = [self.cache.get((version.id, way.name, row), asked.tasks) for row in rows]
        missing = [at for at, answer in enumerate(asked.answers) if answer is None]
        asked.left = len(missing)
        if not missing:
            asked.done.set_result(asked.answers)  # type: ignore[arg-type]
            return asked
        limit = _limit(version, tasks)
        passes = way.passes * (1 if way.together else len(tasks))
        waiting = [_Waiting(asked, at, passes * tokens_of(rows[at], limit)) for at in missing]
        tokens = sum(each.tokens for each in waiting)
        if tokens > self.most_tokens:
            raise _too_much()
        with self._lock:
            if self.tokens + tokens > self.most_tokens:
                raise Busy(self._seconds_to_wait())
            self.tokens += tokens
            for each in waiting:
                self._turns.put(asked.caller, id(asked), each)
            self._some.notify()
            if self.tokens >= self.batch_tokens:
                self._enough.notify()
        return asked

    def _seconds_to_wait(self) -> int:
        seconds = self.tokens / self._rate if self._rate else 1.0
        return max(1, min(_MOST_SECONDS, math.ceil(seconds)))

    def _work(self) -> None:
        torch.set_num_threads(self._threads_each)
        while (batch := self._take()) is not None:
            start = time.monotonic()
            answered: list[tuple[_Waiting, Answer | Exception]] = []
            for group in _alike(batch):
                answered += list(zip(group, self._answers(group), strict=True))
            seconds = time.monotonic() - start
            # A moving average, of what all threads together do in a second.
            rate = self.workers * sum(each.tokens for each in batch) / max(seconds, 1e-6)
            self._rate += 0.1 * (rate - self._rate) if self._rate else rate
            self._observe(len(batch), seconds)
            with self._lock:
                self.busy -= 1
            self._loop.call_soon_threadsafe(_deliver, answered)

    def _take(self) -> list[_Waiting] | None:
        """The rows of the next batch; None when there will be no more."""
        with self._lock:
            while not self._turns and not self._closed:
                self._some.wait()
            for _ in range(_MOST_LINGERS if self.linger else 0):
                before = self.tokens
                if self._closed or before >= self.batch_tokens:
                    break
                self._enough.wait(self.linger)
                if self.tokens <= before:
                    break
            if not self._turns and self._closed:
                return None
            share = max(_FEWEST_TOKENS, self.tokens / (self.workers - self.busy))
            batch: list[_Waiting] = []
            used = 0
            while self._turns and used < min(share, self.batch_tokens):
                each = self._turns.take()
                self.tokens -= each.tokens
                if not each.asked.done.done():  # whoever asked may have gone
                    batch.append(each)
                    used += each.tokens
            self.busy += 1
            if self._turns:
                self._some.notify()
        return batch

    def _answers(self, group: Sequence[_Waiting]) -> list[Answer | Exception]:
        """The answers to rows that need the same passes."""
        version, way = group[0].asked.version, group[0].asked.way
        wanted = {task for each in group for task in each.asked.tasks}
        heads = {name: head for name, head in version.model.heads.items() if name in wanted}
        try:
            answers = way.answer(version, heads, [each.row for each in group])
        except Exception as error:
            if len(group) == 1:
                return [error]
            half = len(group) // 2
            return self._answers(group[:half]) + self._answers(group[half:])
        for each, answer in zip(group, answers, strict=True):
            self.cache.put((version.id, way.name, each.row), answer)
        return [
            {task: answer[task] for task in each.asked.tasks}
            for each, answer in zip(group, answers, strict=True)
        ]


def _alike(batch: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """Rows of one version, to be answered in one way, whose tasks have the same backbones of their own.

    Tasks without one are answered for all rows of the batch or for none: on the shared backbone, the pass
    costs, and a head next to nothing. Where tasks share no pass, each row's own are answered.
    """
    groups: dict[tuple, list[_Waiting]] = defaultdict(list)
    own = cache(_own_backbones)  # most requests of a batch ask for the same tasks
    for each in batch:
        version, way, tasks = each.asked.version, each.asked.way, each.asked.tasks
        groups[version, way, own(version, way, tasks)].append(each)
    return list(groups.values())


def _own_backbones(version: Version, way: Way, tasks: tuple[str, ...]) -> frozenset[str]:
    """The tasks that need passes of their own."""
    model = version.model
    return frozenset(t for t in tasks if not way.together or model.backbone_of(t) is not model.backbone)


def _deliver(answered: Sequence[tuple[_Waiting, Answer | Exception]]) -> None:
    for each, answer in answered:
        each.asked.finish(each.at, answer)


def _limit(version: Version, tasks: Sequence[str]) -> float:
    """How many tokens of a text are read: as many as it has where tags are asked for."""
    tags = any(version.model.heads[task].task.kind == "tag" for task in tasks)
    return math.inf if tags else version.model.backbone.limit or 1


def tokens_of(row: Row, limit: float) -> int:
    """About how many tokens of a row are read; at least one, so that no number of rows is free."""
    texts = (
        each for each in ([row] if isinstance(row, str) else row.values()) if isinstance(each, (str, list))
    )
    return max(1, int(sum(min(limit, _OWN_TOKENS + _length(text) // _CHARACTERS) for text in texts)))


def _too_much() -> Problem:
    return Problem(413, "so much cannot wait at once; send fewer rows, or use /v1/bulk", field="inputs")


def _length(text: str | list) -> int:
    return len(text) if isinstance(text, str) else _CHARACTERS * len(text)
