"""What one process computes of a step, part after part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from taskheads.training.joint.rows import TaskRows
from taskheads.training.joint.stream import Drawn


class StepPart(NamedTuple):
    """Rows that are computed at once, and by task what their mean loss counts in that of the whole step."""

    rows: Drawn
    shares: dict[str, float]


def parts_of(
    mine: Drawn, drawn: Drawn, rows: Mapping[str, TaskRows], count: int, *, in_step: bool
) -> list[StepPart]:
    """A process's own rows, `mine`, of those `drawn` for a step, in at most `count` parts with about the same
    share of every task. `in_step`: in exactly so many, for a backbone that runs in all processes at once; the
    parts that are lacking have one row, which counts for nothing."""
    whole = _counts(rows, drawn)
    parts = []
    for k in range(count):
        some = {name: chosen[k::count] for name, chosen in mine.items() if len(chosen[k::count])}
        if some:
            counts = _counts(rows, some)
            parts.append(StepPart(some, {name: counts[name] / whole[name] for name in some}))
    if in_step:
        name = next(iter(drawn))
        parts += [StepPart({name: drawn[name][:1]}, {name: 0.0})] * (count - len(parts))
    return parts


def _counts(rows: Mapping[str, TaskRows], drawn: Drawn) -> dict[str, int]:
    """What a task's loss is a mean over: its rows, or their words."""
    return {
        name: max(1, len(chosen) if (words := rows[name].words) is None else int(words[chosen].sum()))
        for name, chosen in drawn.items()
    }
