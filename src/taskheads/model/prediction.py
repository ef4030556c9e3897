"""Answers for rows without labels: tasks that read the same columns share one pass of the backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.features import Words, extract
from taskheads.backbone.reads import Read
from taskheads.errors import ConfigError, DataError
from taskheads.heads import EmbedHead, Head, Request, TagHead
from taskheads.heads.tag import spans
from taskheads.model.features import items_of
from taskheads.tasks.examples import unlabelled
from taskheads.tasks.labels import is_bio
from taskheads.tasks.suggest import did_you_mean
from taskheads.tasks.table import Table

Answers = list[dict[str, Any]]
BackboneOf = Callable[[str], Backbone]

# Rows answered together. Part of the result's last bits, so a constant and no option.
BLOCK = 2048


@dataclass
class _Pass:
    """One pass of a backbone: which of the rows, what of them, and all that is read there.

    A pass holds just the rows that have its columns. So its batches, and with them the last bits of what it
    computes, do not depend on which other tasks there are.
    """

    backbone: Backbone
    form: Any
    rows: list[int]
    items: list
    reads: dict[Read, None] = field(default_factory=dict)
    found: Mapping[Read, torch.Tensor | Words] = field(default_factory=dict)


@dataclass(frozen=True)
class _Asked:
    """A task's part in a pass: how the reads of its head are called there."""

    of: _Pass
    reads: Mapping[Read, Read]

    @property
    def rows(self) -> list[int]:
        return self.of.rows

    @property
    def found(self) -> dict[Read, torch.Tensor | Words]:
        return {read: self.of.found[there] for read, there in self.reads.items()}


def chosen(heads: Mapping[str, Head], names: Sequence[str] | None = None) -> dict[str, Head]:
    """The heads of these tasks, of all by default.

    Raises ConfigError for a task that is not there, and where there is none to answer.
    """
    if not heads:
        raise ConfigError("the model has no task to answer; `taskheads add` gives it one")
    for name in names or ():
        if name not in heads:
            near = did_you_mean(name, heads)
            raise ConfigError(f"the model has no task {name!r}{near}; its tasks are {', '.join(heads)}")
    return {name: heads[name] for name in (heads if names is None else names)}


def answer_stream(
    heads: Mapping[str, Head], backbone_of: BackboneOf, rows: Iterable[Any], *, scores: bool = False
) -> Iterator[dict[str, Any]]:
    """As `answer_block`, of any number of rows in constant memory: a block is read, then answered.

    Raises DataError where no row of all has the inputs of any task.
    """
    rows = iter(rows)

    def blocks() -> Iterator[Answers]:
        first_row = 1
        while block := list(islice(rows, BLOCK)):
            yield answer_block(heads, backbone_of, block, first_row=first_row, scores=scores)
            first_row += len(block)

    for answers in from_first_answer(blocks(), heads):
        yield from answers


def from_first_answer(blocks: Iterable[Answers], heads: Mapping[str, Head]) -> Iterator[Answers]:
    """The blocks of answers; those of nothing but None at the start wait until a row has an answer.

    So nothing is answered to rows whose columns are all misspelt. Raises DataError if there are only such.
    """
    waiting: list[int] | None = []
    for answers in blocks:
        if waiting is not None and not has_answer(answers):
            waiting.append(len(answers))
            continue
        for size in waiting or ():
            yield [dict.fromkeys(heads) for _ in range(size)]
        waiting = None
        yield answers
    if waiting:
        raise no_inputs(heads)


def has_answer(answers: Answers) -> bool:
    """Whether any task answers any of the rows."""
    return any(answer is not None for row in answers for answer in row.values())


def no_inputs(heads: Mapping[str, Head]) -> DataError:
    """The error about rows of which none has the inputs of any task, at the first of them."""
    needed = sorted({column for head in heads.values() for column in head.task.inputs})
    return DataError(f"no task has its inputs here; they are {', '.join(needed)}", row=1)


def answer_block(
    heads: Mapping[str, Head],
    backbone_of: BackboneOf,
    rows: Sequence[Any],
    *,
    first_row: int = 1,
    scores: bool = False,
) -> Answers:
    """{task: answer} for every row, None where a row has not all that the task needs.

    `backbone_of` says what the head of a task reads; `rows` are texts or dicts; `first_row` is the number of
    the first one in error messages; `scores` asks for the probability of every label. A text stands for the
    input of each task that has one; for search it is a query. Raises DataError for a value that cannot be
    read.
    """
    passes: dict[tuple, _Pass] = {}
    used: dict[str, list[_Asked]] = {}
    for name, head in heads.items():
        used[name], mine = [], backbone_of(name)
        backbone, reads = mine.shared_pass, {read: mine.read_as(read) for read in head.reads}
        for side, request in enumerate(head.requests):
            columns = _columns(head, request)
            present = [i for i, row in enumerate(rows) if _has(row, columns, side)]
            texts = all(isinstance(rows[i], str) for i in present)
            key = (id(backbone), () if texts else columns, request, tuple(present))
            if key not in passes:
                items = _items(head, request, columns, rows, present, first_row)
                passes[key] = _Pass(backbone, request.form, present, items)
            passes[key].reads.update(dict.fromkeys(reads.values()))
            used[name].append(_Asked(passes[key], reads))
    for each in passes.values():
        if each.rows:
            each.found = extract(each.backbone, each.form, each.items, each.reads)
    answers: Answers = [dict.fromkeys(heads) for _ in rows]
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


def _has(row: Any, columns: tuple[str, ...], side: int) -> bool:
    if isinstance(row, str):
        return len(columns) == 1 and side == 0
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


def _answers(head: Head, passes: Sequence[_Asked], scores: bool) -> dict[int, dict[str, Any]]:
    rows = passes[0].rows
    if not rows:
        return {}
    lengths: list[int] | None = None
    found: list[dict[Read, torch.Tensor]] = []
    for each in passes:
        taken: dict[Read, torch.Tensor] = {}
        for read, values in each.found.items():
            if isinstance(values, Words):
                taken[read], lengths = values.values, values.lengths
            else:
                taken[read] = values
        found.append(taken)
    with torch.inference_mode():
        made = head.decide(head(head.gather(found)), lengths)
    answers = head.answers(made, scores=scores)
    if isinstance(head, TagHead) and is_bio(map(str, head.task.labels)):
        for answer, words in zip(answers, passes[0].of.items, strict=True):
            answer["spans"] = spans(words, answer["tags"])
    return dict(zip(rows, answers, strict=True))


def _embeddings(head: EmbedHead, passes: Sequence[_Asked], _scores: bool) -> dict[int, dict[str, Any]]:
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
