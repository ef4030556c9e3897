"""When a thread begins with the rows that wait, and which answers are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from taskheads.model.model import Model
from taskheads.serve.batcher import Asked, Batcher
from taskheads.serve.cache import AnswerCache
from taskheads.serve.ways import PLAIN
from tests.serve.conftest import Served

FOR_EVER = 1000.0


def batches(served: Served, asking: Callable[[Callable[[str], Asked]], Any], **how: Any) -> list[int]:
    """The sizes of the batches that answer what `asking` asks for; what is left is answered at the end."""
    sizes: list[int] = []

    async def run() -> None:
        cache = AnswerCache(0)
        batcher = Batcher(
            waiting_tokens=1000, workers=1, cache=cache, observe=lambda rows, _: sizes.append(rows), **how
        )
        batcher.start()
        await asking(lambda text: batcher.ask(served.version, [text], ["topic"], way=PLAIN, caller=None))
        await asyncio.wait_for(batcher.close(), 30)

    asyncio.run(run())
    return sizes


def test_enough_rows_are_not_kept_waiting(served: Served) -> None:
    async def asking(ask: Callable[[str], Asked]) -> None:
        asked = [ask("home"), ask("fox"), ask("lazy dogs")]
        await asyncio.wait_for(asyncio.gather(*(each.done for each in asked)), 30)

    assert batches(served, asking, linger=FOR_EVER, batch_tokens=9) == [3]


def test_rows_that_wait_for_more_are_answered_at_the_end(served: Served) -> None:
    async def asking(ask: Callable[[str], Asked]) -> None:
        ask("home")
        await asyncio.sleep(0)
        ask("fox")

    assert batches(served, asking, linger=FOR_EVER, batch_tokens=900) == [2]


@pytest.mark.parametrize("row", ["home", {"text": "home", "doc": "fox"}])
def test_answers_to_other_tasks_are_kept_beside_those_there_are(model: Model, row: Any) -> None:
    cache = AnswerCache(10_000)
    answer = model.predict([row], tasks=["topic", "size"])[0]
    for task in answer:
        assert cache.get(("v", "plain", row), ["topic", "size"]) is None
        cache.put(("v", "plain", row), {task: answer[task]})
    assert cache.get(("v", "plain", row), ["size", "topic"]) == answer
    assert cache.get(("v", "scored", row), ["size"]) is None
    assert cache.get(("w", "plain", row), ["size"]) is None


def test_kept_answers_are_bounded_and_the_longest_unasked_goes_first() -> None:
    cache = AnswerCache(3000)
    for at in range(20):
        cache.put(("v", "plain", f"text {at}"), {"topic": {"label": "a" * at}})
        assert cache.get(("v", "plain", "text 0"), ["topic"]) is not None
        assert 0 < cache.bytes <= 3000
    assert 1 < len(cache) < 20
    assert cache.get(("v", "plain", "text 1"), ["topic"]) is None
    none = AnswerCache(0)
    none.put(("v", "plain", "text"), {"topic": None})
    assert (none.bytes, len(none)) == (0, 0)
    assert none.get(("v", "plain", "text"), ["topic"]) is None
