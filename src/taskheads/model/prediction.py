"""Answers for rows without labels: tasks that read the same columns share one pass of the backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.features import Words, extract
from taskheads.backbone.reads import Read
from taskheads.errors import DataError
from taskheads.heads import EmbedHead, Head, Request, TagHead
from taskheads.heads.tag import spans
from taskheads.model.features import items_of
from taskheads.tasks.examples import unlabelled
from taskheads.tasks.labels import is_bio
from taskheads.tasks.table import Table


@dataclass
class _Pass:
    """One pass of the backbone: which of the rows, what of them, and all that is read there.

    A pass holds just the rows that have its columns. So its batches, and with them the last bits of what it
    computes, do not depend on which other tasks there are.
    """

    form: Any
    rows: list[int]
    items: list
    reads: dict[Read, None] = field(default_factory=dict)
    found: Mapping[Read, torch.Tensor | Words] = field(default_factory=dict)


def answer_rows(
    backbone: Backbone,
    heads: Mapping[str, Head],
    rows: Sequence[Any],
    *,
    first_row: int = 1,
    scores: bool = False,
) -> list[dict[str, Any]]:
    """{task: answer} for every row, None where a row has not all that the task needs.

    `rows` are texts or dicts; `first_row` is the number of the first one in error messages; `scores` asks
    for the probability of every label. Raises DataError for a value that cannot be read, and where no row
    has the inputs of any task.
    """
    passes: dict[tuple, _Pass] = {}
    used: dict[str, list[_Pass]] = {}
    for name, head in heads.items():
        used[name] = []
        for request in head.requests:
            columns = _columns(head, request)
            present = [i for i, row in enumerate(rows) if _has(row, columns)]
            texts = all(isinstance(rows[i], str) for i in present)
            key = (() if texts else columns, request, tuple(present))
            if key not in passes:
                items = _items(head, request, columns, rows, present, first_row)
                passes[key] = _Pass(request.form, present, items)
            passes[key].reads.update(dict.fromkeys(head.reads))
            used[name].append(passes[key])
    if heads and rows and not any(each.rows for each in passes.values()):
        needed = sorted({column for head in heads.values() for column in head.task.inputs})
        raise DataError(f"no task has its inputs here; they are {', '.join(needed)}", row=first_row)
    for each in passes.values():
        if each.rows:
            each.found = extract(backbone, each.form, each.items, each.reads)
    answers: list[dict[str, Any]] = [dict.fromkeys(heads) for _ in rows]
    for name, head in heads.items():
        answer = _embeddings if isinstance(head, EmbedHead) else _answers
        for row, made in answer(head, used[name], scores).items():  # type: ignore[arg-type]
            answers[row][name] = made
    return answers


def _columns(head: Head, request: Request) -> tuple[str, ...]:
    """What a row must have: all inputs of the task; but in search a query or a document alone will do."""
    if isinstance(head, EmbedHead):
        return tuple(head.task.inputs[at] for at in request.at)
    return head.task.inputs


def _has(row: Any, columns: tuple[str, ...]) -> bool:
    if isinstance(row, str):
        return len(columns) == 1
    return all(row.get(column) is not None for column in columns)


def _items(
    head: Head,
    request: Request,
    columns: tuple[str, ...],
    rows: Sequence[Any],
    present: list[int],
    first_row: int,
) -> list:
    """What the request takes of these rows, checked as training data is."""
    values = {
        column: [rows[i] if isinstance(rows[i], str) else rows[i][column] for i in present]
        for column in columns
    }
    table = Table("input", values, [first_row + i for i in present])
    examples = unlabelled(replace(head.task, inputs=columns), table)
    return items_of(request if len(columns) == len(head.task.inputs) else replace(request, at=(0,)), examples)


def _answers(head: Head, passes: Sequence[_Pass], scores: bool) -> dict[int, dict[str, Any]]:
    rows = passes[0].rows
    if not rows:
        return {}
    lengths: list[int] | None = None
    found: list[dict[Read, torch.Tensor]] = []
    for each in passes:
        taken: dict[Read, torch.Tensor] = {}
        for read in head.reads:
            values = each.found[read]
            if isinstance(values, Words):
                taken[read], lengths = values.values, values.lengths
            else:
                taken[read] = values
        found.append(taken)
    with torch.inference_mode():
        made = head.decide(head(head.gather(found)), lengths)
    answers = head.answers(made, scores=scores)
    if isinstance(head, TagHead) and is_bio(map(str, head.task.labels)):
        for answer, words in zip(answers, passes[0].items, strict=True):
            answer["spans"] = spans(words, answer["tags"])
    return dict(zip(rows, answers, strict=True))


def _embeddings(head: EmbedHead, passes: Sequence[_Pass], _scores: bool) -> dict[int, dict[str, Any]]:
    """The vector of a row's query (of its document, where there is no query), and how alike the two are."""
    vectors: list[dict[int, torch.Tensor]] = []
    with torch.inference_mode():
        for side, each in enumerate(passes):
            made = head.embed(head.joined(each.found), side) if each.rows else torch.empty(0)  # type: ignore[arg-type]
            vectors.append(dict(zip(each.rows, made, strict=True)))
    answers: dict[int, dict[str, Any]] = {}
    for row in sorted({*vectors[0], *vectors[1]}):
        sides = [each[row] for each in vectors if row in each]
        answers[row] = {"embedding": [round(value, 6) for value in sides[0].tolist()]}
        if len(sides) == 2:
            answers[row]["similarity"] = round(float(sides[0] @ sides[1]), 6)
    return answers
