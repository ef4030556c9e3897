"""What a merge left of each task, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Group
from rich.text import Text

from taskheads.report.scores import Scored, number
from taskheads.report.tables import Column, FittedTable


class Kept(Protocol):
    """What is printed of a `taskheads.merging.with_heads.Kept`."""

    @property
    def original(self) -> Scored: ...
    @property
    def merged(self) -> Scored: ...
    @property
    def static(self) -> Scored: ...
    @property
    def best(self) -> str: ...
    @property
    def share(self) -> float | None: ...


def merged_table(kept: Sequence[Kept]) -> Group:
    """A line for each task: its own model's score, the merged model's, the best static merge's, what is kept
    and what is lost."""
    table = FittedTable(
        [
            Column("task", [each.merged.task for each in kept]),
            Column("metric", [each.merged.metric for each in kept], spare=2),
            Column("original", [number(each.original.value) for each in kept], right=True),
            Column("merged", [number(each.merged.value) for each in kept], right=True),
            Column("best static", [number(each.static.value) for each in kept], right=True),
            Column("baseline", [number(each.merged.baseline) for each in kept], right=True, spare=1),
            Column("keeps", ["" if each.share is None else f"{each.share:.0%}" for each in kept], right=True),
            Column(
                "change", [f"{each.merged.value - each.original.value:+.3f}" for each in kept], right=True
            ),
        ]
    )
    best = {each.best for each in kept}
    return Group(table, Text(f"\nThe best static merge, chosen on dev: {', '.join(sorted(best))}"))
