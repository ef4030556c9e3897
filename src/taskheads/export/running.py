"""A graph run by ONNX Runtime on a model's rows, to be held against the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taskheads.backbone.ragged import Encoded
from taskheads.backbone.tokens import Tokens
from taskheads.heads import Decisions, EmbedHead, Head
from taskheads.model.features import items_of
from taskheads.tasks.task import Examples

# Padded rows at a time; of about the same length, so that little is padding.
_ROWS = 32


class OnnxModel:
    """What `write_onnx` wrote, asked about rows as the heads of the model are.

    tokens: the model's tokenizer.
    """

    def __init__(self, path: Path, tokens: Tokens) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = {each.name for each in self._session.get_inputs()}
        self.tokens = tokens

    def said(self, head: Head, examples: Examples) -> tuple[torch.Tensor, list[int] | None]:
        """As `graph.said` of the head's scores for these rows, [n, …], and the words of each row where n
        counts words; of an embed task [2, n, d]."""
        name = head.task.name
        if head.task.kind == "tag":
            return self._of_words(head, examples)
        if isinstance(head, EmbedHead):
            sides = zip(("query", "document"), examples.inputs, strict=True)
            made = [self._of_rows(f"{name}.{part}", self.tokens.texts(texts)) for part, texts in sides]
            return torch.from_numpy(np.stack(made)), None
        if len(head.requests) == 2:
            return torch.from_numpy(self._of_pairs(name, *map(self.tokens.texts, examples.inputs))), None
        (request,) = head.requests
        items = items_of(request, examples)
        pair = request.form == "pair"
        rows = self.tokens.pairs(*zip(*items, strict=True)) if pair else self.tokens.texts(items)
        return torch.from_numpy(self._of_rows(name, rows)), None

    def _of_rows(self, name: str, rows: Sequence[Encoded]) -> np.ndarray:
        found: list[Any] = [None] * len(rows)
        for some in _alike(rows):
            for at, value in zip(some, self._run(name, [rows[at] for at in some]), strict=True):
                found[at] = value
        return np.stack(found)

    def _of_pairs(self, name: str, first: Sequence[Encoded], second: Sequence[Encoded]) -> np.ndarray:
        made = []
        for start in range(0, len(first), _ROWS):
            left, right = first[start : start + _ROWS], second[start : start + _ROWS]
            numbers = np.arange(len(left))
            pairs = np.stack([numbers, numbers + len(left)], axis=1)
            made.append(self._run(name, [*left, *right], pairs))
        return np.concatenate(made)

    def _of_words(self, head: Head, examples: Examples) -> tuple[torch.Tensor, list[int]]:
        windows = self.tokens.windows(examples.inputs[0])
        pieces = [window for row in windows for window in row]
        with torch.inference_mode():
            # What the head says of a word without a token, whose features are zeros.
            nothing = head(torch.zeros(1, head.features))[0].numpy()
        found: list[Any] = [None] * len(pieces)
        for some in _alike(pieces):
            for at, tokens in zip(some, self._run(head.task.name, [pieces[at] for at in some]), strict=True):
                first = pieces[at].words
                assert first is not None
                found[at] = np.where(first[:, None] >= 0, tokens[np.maximum(first, 0)], nothing)
        return torch.from_numpy(np.concatenate(found)), [len(words) for words in examples.inputs[0]]

    def _run(self, name: str, rows: Sequence[Encoded], pairs: np.ndarray | None = None) -> np.ndarray:
        width = max(1, *map(len, rows))
        given = {each: np.zeros((len(rows), width), np.int64) for each in ("ids", "mask", "segments")}
        for at, row in enumerate(rows):
            given["ids"][at, : len(row)] = row.ids
            given["mask"][at, : len(row)] = 1
            if row.segments is not None:
                given["segments"][at, : len(row)] = row.segments
        given["pairs"] = np.zeros((0, 2), np.int64) if pairs is None else pairs
        return self._session.run([name], {key: given[key] for key in self._inputs})[0]


def decisions(head: Head, said: torch.Tensor, lengths: Sequence[int] | None = None) -> Decisions:
    """The decisions of a head from what a graph says, as `head.decide` makes them from scores."""
    if head.task.kind == "tag" or isinstance(head, EmbedHead):
        return head.decide(said, lengths)
    values = said.numpy()
    if head.task.kind == "multilabel":
        return Decisions(values >= head.get_buffer("thresholds").numpy(), values)
    if head.task.kind == "ordinal":
        above = 1 - values.cumsum(1)[:, :-1]
        return Decisions((above > 0.5).sum(1), values)
    return Decisions(values.argmax(1), values) if head.task.labels else Decisions(values.astype(np.float64))


def _alike(rows: Sequence[Encoded]) -> Iterator[list[int]]:
    """The numbers of all rows, some of about the same length at a time."""
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    for start in range(0, len(order), _ROWS):
        yield order[start : start + _ROWS]
