"""What `inspect` and `prune` print: the attention heads that count most, and what a smaller model scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from taskheads.attention.levels import Level
from taskheads.attention.scores import HeadScores
from taskheads.attention.usage import shares
from taskheads.report.page.heads import TOP, share_of
from taskheads.report.scores import Scored
from taskheads.report.tables import Column, FittedTable

Pair = tuple[int, int]


def top_table(importance: HeadScores, called: Sequence[Sequence[str]]) -> FittedTable:
    """A line for each task: its most important attention heads, layer.head, with their shares of the whole
    and their standard errors, and in short their roles, [layers][heads]."""
    relative = shares(importance)
    best = [importance.of_task(task).top(TOP) for task in importance.tasks]
    most = max(map(len, best))
    columns = [Column("task", list(importance.tasks))]
    for place in range(most):
        cells = [
            f"{head}  {share_of(relative, task, *head)}  {called[head.layer][head.head]}"
            for task, head in zip(importance.tasks, (some[place] for some in best), strict=True)
        ]
        columns.append(Column(str(place + 1), cells, spare=place))
    return FittedTable(columns)


def levels_table(levels: Sequence[Level]) -> FittedTable:
    """A line for each task: its score with all attention heads and with each share of them."""
    first = levels[0].scores
    columns = [
        Column("task", list(first)),
        Column("metric", [score.metric for score in first.values()], spare=2),
    ]
    for level in levels:
        cells = [f"{score.value:.3f}" for score in level.scores.values()]
        # Every second share goes first where there is no room.
        spare = 1 if round(10 * level.keep) % 2 else 0
        columns.append(Column(f"{level.keep:.0%}", cells, right=True, spare=spare))
    return FittedTable(columns)


def as_json(importance: HeadScores, patterns: Mapping[str, HeadScores], levels: Sequence[Level] = ()) -> str:
    """The scores for other programs: [layers][heads] by task and by statistic, null for an attention head
    that is not there, where they are from, and the tasks' scores with a share of the attention heads."""

    def told(scores: HeadScores) -> dict[str, Any]:
        return {"values": _lists(scores.values), "error": _lists(scores.error)}

    found = {
        "importance": {task: told(importance.of_task(task)) for task in importance.tasks},
        "patterns": {name: told(scores) for name, scores in patterns.items()},
        "levels": [
            {
                "keep": level.keep,
                "attention_heads": level.left,
                "scores": {name: score.to_json() for name, score in level.scores.items()},
            }
            for level in levels
        ],
        "manifest": dict(importance.manifest),
    }
    return json.dumps(found, indent=1)


def pruned_words(heads: Pair, parameters: Pair, seconds: tuple[float, float], tokens: int) -> str:
    """What a smaller backbone has and takes, (before, after) of each; `seconds` of a pass over so many
    tokens."""
    passes = [1000 * each for each in seconds]
    return (
        f"{heads[1]:,} of {heads[0]:,} attention heads are left, and {parameters[1]:,} of {parameters[0]:,} "
        f"parameters ({parameters[1] / parameters[0]:.0%}).\nA pass over {tokens:,} tokens takes "
        f"{passes[1]:.1f} ms here instead of {passes[0]:.1f} ms ({passes[0] / passes[1]:.2f} times as fast)."
    )


def pruned_table(before: Sequence[Scored], after: Sequence[Scored]) -> FittedTable:
    """A line for each task: its score and 95 % interval on the whole backbone and on the pruned one."""
    now = {score.task: score for score in after}
    pairs = [(score, now[score.task]) for score in before]
    return FittedTable(
        [
            Column("task", [was.task for was, _ in pairs]),
            Column("metric", [was.metric for was, _ in pairs], spare=2),
            Column("before", [f"{was.value:.3f}" for was, _ in pairs], right=True),
            Column("95 %", [_ends(was) for was, _ in pairs], spare=1),
            Column("after", [f"{found.value:.3f}" for _, found in pairs], right=True),
            Column("95 %", [_ends(found) for _, found in pairs], spare=1),
            Column("rows", [f"{was.rows:,}" for was, _ in pairs], right=True, spare=3),
        ]
    )


def _lists(values: torch.Tensor) -> list[list[float | None]]:
    return [[None if each != each else each for each in some] for some in values.tolist()]


def _ends(score: Scored) -> str:
    return f"{score.low:.3f} to {score.high:.3f}"
