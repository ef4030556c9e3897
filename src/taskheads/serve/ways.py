"""The ways in which a row can be answered: what a batch of them is put through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskheads.heads import Head
from taskheads.model.prediction import answer_block
from taskheads.serve.cache import Answer, Row
from taskheads.serve.versions import Version, by_head
from taskheads.tasks.examples import unlabelled
from taskheads.tasks.table import Table
from taskheads.tasks.task import Examples, Task


@dataclass(frozen=True, eq=False)
class Way:
    """How rows are answered.

    name: by which the cache tells answers apart. answer: {task: answer} for each row, None where a row has
    not the inputs of a task. passes: what a row costs, in passes of the backbone; of each task, unless
    `together` says that tasks share them.
    """

    name: str
    answer: Callable[[Version, Mapping[str, Head], Sequence[Row]], list[Answer]]
    passes: int = 1
    together: bool = True


def _plain(version: Version, heads: Mapping[str, Head], rows: Sequence[Row]) -> list[Answer]:
    return answer_block(heads, version.model.backbone_of, rows)


def _scored(version: Version, heads: Mapping[str, Head], rows: Sequence[Row]) -> list[Answer]:
    return answer_block(heads, version.model.backbone_of, rows, scores=True)


def _leaning(version: Version, heads: Mapping[str, Head], rows: Sequence[Row]) -> list[Answer]:
    from taskheads.attention.leaning import leaning, scale

    def of_task(task: str, head: Head, row: Row) -> dict[str, Any] | None:
        if (example := _example(head.task, row)) is None:
            return None
        strength, slopes = leaning(version.attention_heads, version.model.backbone_of(task), head, example)
        said = round(float(strength), 6) if strength.isfinite() else None
        return {"strength": said, "scale": scale(head), "leaning": by_head(slopes)}

    return [{task: of_task(task, head, row) for task, head in heads.items()} for row in rows]


def _example(task: Task, row: Row) -> Examples | None:
    """The row as one of the task's, if it has all inputs. Raises DataError for what cannot be read."""
    given = {task.inputs[0]: row} if isinstance(row, str) else row
    if any(given.get(column) is None for column in task.inputs):
        return None
    return unlabelled(task, Table("input", {column: [given[column]] for column in task.inputs}, [1]))


# The answer; the answer with the probability of every label; which attention heads it leaned on.
PLAIN = Way("plain", _plain)
SCORED = Way("scored", _scored)
LEANING = Way("leaning", _leaning, passes=3, together=False)  # a pass back is worth two
