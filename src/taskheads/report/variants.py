"""Variants of one model beside each other, by how good they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taskheads.report.scores import Scored
from taskheads.report.tables import Column, FittedTable


def variants_table(scores: Mapping[str, Sequence[Scored]]) -> FittedTable:
    """A line for each task, a column for each variant: its score, and its difference from the first one's."""
    first = next(iter(scores.values()))
    columns = [
        Column("task", [score.task for score in first]),
        Column("metric", [score.metric for score in first]),
    ]
    for variant, judged in scores.items():
        columns.append(Column(variant, [f"{score.value:.3f}" for score in judged], right=True))
        if judged is not first:
            differences = (f"{mine.value - its.value:+.3f}" for mine, its in zip(judged, first, strict=True))
            columns.append(Column("difference", list(differences), right=True))
    return FittedTable(
        [*columns, Column("rows", [f"{score.rows:,}" for score in first], right=True, spare=1)]
    )
