"""The rows of a task as the training loop takes them: tokens and encoded targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.groups import spans
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import BackboneError
from taskheads.heads import Head, Request
from taskheads.model.features import items_of
from taskheads.model.model import Model
from taskheads.tasks.task import Examples, Task
from taskheads.training.trial import encoded_targets


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task.

    encoded: for each request of the task's head, every row's tokens.
    targets: of rows, [n, ...]; of words end to end where there are `words`; empty for `embed`.
    words: the number of words of each row for `tag`, else None.
    tokens: the tokens of each row, those of all requests together.
    """

    encoded: tuple[list[Encoded], ...]
    targets: torch.Tensor
    words: np.ndarray | None
    tokens: np.ndarray

    @classmethod
    def of(cls, backbone: Backbone, head: type[Head], task: Task, examples: Examples) -> TaskRows:
        """Tokenise and encode; rows are cut at the tokenizer's limit. Raises DataError for an unknown
        label."""
        encoded = tuple(_encoded(backbone, request, examples) for request in head.requests_of(task))
        tokens = np.asarray([[len(row) for row in rows] for rows in encoded], np.int64).sum(0)
        words = None
        if task.kind == "tag":
            words = np.asarray([len(tags) for tags in examples.targets], np.int64)
        return cls(encoded, encoded_targets(task, examples), words, tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def targets_of(self, rows: np.ndarray) -> torch.Tensor:
        """The targets of these rows, in this order."""
        if self.words is None:
            return self.targets[torch.from_numpy(rows)]
        starts = np.cumsum(self.words) - self.words
        return self.targets[torch.from_numpy(spans(starts[rows], self.words[rows]))]


def encoded_rows(model: Model, examples: Mapping[str, Examples]) -> dict[str, TaskRows]:
    """Rows by task, as the model's heads take them. Raises DataError for a label that the model does not
    know."""
    asked = [(name, model.heads[name]) for name in examples]
    return {name: TaskRows.of(model.backbone, type(head), head.task, examples[name]) for name, head in asked}


def batches_of(backbone: Backbone, rows: Mapping[str, TaskRows]) -> Iterator[RaggedBatch]:
    """The tokens of all tasks' rows."""
    return backbone.batches([row for each in rows.values() for request in each.encoded for row in request])


def _encoded(backbone: Backbone, request: Request, examples: Examples) -> list[Encoded]:
    if backbone.tokens is None:
        raise BackboneError(
            f"the backbone {backbone.name!r} has no tokenizer, so that it cannot be trained here"
        )
    items = items_of(request, examples)
    if request.form == "pair":
        return backbone.tokens.pairs([first for first, _ in items], [second for _, second in items])
    return backbone.tokens.words(items) if request.form == "words" else backbone.tokens.texts(items)
