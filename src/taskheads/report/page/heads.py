"""The page of a model's attention heads: which task uses which, what they share, what each looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from markupsafe import Markup

from taskheads.attention.levels import Level
from taskheads.attention.roles import ENTROPY, SPREAD, roles
from taskheads.attention.scores import HeadScores
from taskheads.attention.usage import shares, used
from taskheads.attention.which import AttentionHead
from taskheads.report.page.heads_grid import Grid, grid
from taskheads.report.page.kept_heads import level_charts
from taskheads.report.page.likeness import likeness
from taskheads.report.page.numbers import decimal
from taskheads.report.page.rendering import templates

TOP = 5
_SHARED_SHOWN = 20


@dataclass(frozen=True)
class HeadRow:
    """What the page tells of an attention head: its role and its statistics by name, by task its share of the
    task's importance, and the tasks that it is one of the most important for."""

    head: AttentionHead
    role: str
    patterns: dict[str, str]
    shares: dict[str, str]
    tasks: list[str]


def heads_page(
    importance: HeadScores,
    patterns: Mapping[str, HeadScores],
    *,
    title: str,
    facts: Mapping[str, Any] | None = None,
    levels: Sequence[Level] = (),
    excerpts: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The attention heads of a model as one HTML page, complete in itself: it loads nothing.

    Parameters
    ----------
    importance: [tasks, layers, heads], of `taskheads.attention.usage.importance`.
    patterns: by name, of `taskheads.attention.roles.pattern_statistics`.
    title, facts: what stands above: any texts; they are escaped.
    levels: what tasks score with fewer, of `taskheads.attention.levels.levels`.
    excerpts: rows to see patterns in, of `taskheads.report.page.patterns.drawn_excerpts`.
    """
    rows = head_rows(importance, patterns)
    several = [row for row in rows if len(row.tasks) > 1]
    return (
        templates()
        .get_template("heads.html")
        .render(
            title=title,
            facts=list((facts or {}).items()),
            tasks=list(importance.tasks),
            count=len(rows),
            grids=_grids(importance),
            counts=_counts(importance),
            roles=_roles(patterns),
            levels=levels,
            charts=level_charts(levels) if levels else (),
            excerpts=excerpts,
            tops={task: _top(importance, rows, task) for task in importance.tasks},
            shared=sorted(several, key=lambda row: -len(row.tasks))[:_SHARED_SHOWN],
            n_shared=len(several),
            alike=_alike(importance),
            rows=rows,
            patterns=list(patterns),
            n_rows={task: importance.of_task(task).manifest.get("n") for task in importance.tasks},
        )
    )


def head_rows(importance: HeadScores, patterns: Mapping[str, HeadScores]) -> list[HeadRow]:
    """Every attention head, by layer and number."""
    relative, most, called = shares(importance), used(importance), roles(patterns)
    rows = []
    for layer, some in enumerate(called):
        for head, role in enumerate(some):
            if not role:
                continue
            rows.append(
                HeadRow(
                    AttentionHead(layer, head),
                    role,
                    {name: decimal(float(each.values[layer, head]), 2) for name, each in patterns.items()},
                    {task: share_of(relative, task, layer, head) for task in importance.tasks},
                    [task for task, mine in zip(importance.tasks, most, strict=True) if mine[layer, head]],
                )
            )
    return rows


def share_of(relative: HeadScores, task: str, layer: int, head: int) -> str:
    """ "3.1 % ± 0.2": a share with its standard error."""
    at = relative.tasks.index(task)
    value, error = (100 * float(each[at, layer, head]) for each in (relative.values, relative.error))
    return f"{decimal(value, 1)} % ± {decimal(error, 1)}"


def _grids(importance: HeadScores) -> list[tuple[str, Markup]]:
    """A heat map for each task, as dark as an attention head's share of the highest one."""
    return [
        (task, grid(Grid(_of_highest(values), f"Importance of attention heads for {task}")))
        for task, values in zip(importance.tasks, importance.values, strict=True)
    ]


def _counts(importance: HeadScores) -> Markup | None:
    """For how many tasks an attention head counts, where there are several."""
    if len(importance.tasks) < 2:
        return None
    counts = used(importance).sum(0).float()
    numbers = [[str(int(count)) if count > 0 else "" for count in some] for some in counts]
    there = ~importance.values[0].isnan()
    values = _where(there, counts / len(importance.tasks))
    return grid(Grid(values, "Tasks that use each attention head", numbers))


def _roles(patterns: Mapping[str, HeadScores]) -> Markup:
    """The role of each attention head, as dark as the weight of the token that it is called after."""
    letters = [["" if role in ("", SPREAD) else role[0].upper() for role in some] for some in roles(patterns)]
    weights = torch.stack([each.values for name, each in patterns.items() if name != ENTROPY])
    most = _where(~patterns[ENTROPY].values.isnan(), weights.nan_to_num(0.0).amax(0))
    return grid(Grid(most, "Roles of attention heads", letters, "role"))


def _top(importance: HeadScores, rows: Sequence[HeadRow], task: str) -> list[HeadRow]:
    by_head = {row.head: row for row in rows}
    return [by_head[head] for head in importance.of_task(task).top(TOP)]


def _alike(importance: HeadScores) -> Markup | None:
    """How much alike the tasks order the attention heads, by Spearman's correlation of their importances."""
    if len(importance.tasks) < 2:
        return None
    each = [importance.of_task(task) for task in importance.tasks]
    what = "the attention heads they use"
    return likeness(
        {"tasks": importance.tasks, what: [[a.rank_correlation(b) for b in each] for a in each]}, what
    )


def _of_highest(values: torch.Tensor) -> torch.Tensor:
    highest = float(values.nan_to_num().max())
    return values / highest if highest else values


def _where(there: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.where(there, values, torch.nan)
