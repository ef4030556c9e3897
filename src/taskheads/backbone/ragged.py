"""Ragged batches: the tokens of many rows laid end to end, with no padding between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from taskheads.backbone.groups import Arrangement, of_equal_length, of_similar_length, on_device, spans


@dataclass(frozen=True)
class Encoded:
    """One tokenised row: token ids [n], segment ids [n] or None for all zeros, and where each word starts.

    `words[j]` is the index in `ids` of the first token of word j; None unless the row was given as words.
    A word which the tokenizer turned into nothing has the index -1.
    """

    ids: np.ndarray
    segments: np.ndarray | None = None
    words: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_words(self) -> int:
        return 0 if self.words is None else len(self.words)


class RaggedBatch:
    """Tokens of all rows in one long row, with the rows' lengths beside them.

    Attributes
    ----------
    ids, segments: int64 [N], N being the number of tokens of all rows; segments may be None.
    lengths: the rows' lengths, in the order in which they stand.
    rows: for each row in that order, its number in the caller's sequence.
    tasks: whose rows they are: pairs of a task and its number of rows, in order; empty where nobody says.
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        rows: Sequence[int] | None = None,
        tasks: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.tasks = tuple(tasks)
        self.rows = list(range(len(encoded))) if rows is None else list(rows)
        self.lengths = [len(row) for row in encoded]
        self.ids = torch.from_numpy(np.concatenate([row.ids for row in encoded]).astype(np.int64))
        self.segments = None
        if any(row.segments is not None for row in encoded):
            parts = [np.zeros(len(row)) if row.segments is None else row.segments for row in encoded]
            self.segments = torch.from_numpy(np.concatenate(parts).astype(np.int64))
        self.words = [row.words for row in encoded]
        self._arranged: dict[tuple[int, ...] | None, Arrangement] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device | str) -> RaggedBatch:
        """This batch with its tokens on `device`; itself when they are there already."""
        if self.ids.device == torch.device(device):
            return self
        segments = None if self.segments is None else self.segments.to(device)
        return self._with(self.ids.to(device), segments, self.lengths, self.words)

    @cached_property
    def starts(self) -> torch.Tensor:
        """Index of each row's first token, int64 [rows]."""
        return on_device(np.concatenate([[0], np.cumsum(self.lengths)[:-1]]), self.ids.device)

    @cached_property
    def counts(self) -> torch.Tensor:
        """The rows' lengths as a tensor, int64 [rows]."""
        return on_device(np.asarray(self.lengths), self.ids.device)

    @cached_property
    def row_of_token(self) -> torch.Tensor:
        """Which row each token belongs to, int64 [N]."""
        return on_device(np.repeat(np.arange(len(self)), self.lengths), self.ids.device)

    @cached_property
    def positions(self) -> torch.Tensor:
        """Each token's position in its own row, int64 [N]."""
        return on_device(spans(np.zeros(len(self), np.int64), np.asarray(self.lengths)), self.ids.device)

    @cached_property
    def word_tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For every word of every row, the index of its first token, and whether it has one."""
        words = [np.asarray([], np.int64) if row is None else row for row in self.words]
        starts = np.repeat(self.starts.cpu().numpy(), [len(row) for row in words])
        inside = np.concatenate(words)
        at = on_device(np.where(inside < 0, 0, starts + inside), self.ids.device)
        return at, on_device(inside >= 0, self.ids.device)

    @cached_property
    def place_by_length(self) -> torch.Tensor:
        """Where each row stands when rows are brought in the order of `arranged`, int64 [rows]."""
        places = np.argsort(np.argsort(self.lengths, kind="stable"))
        return on_device(places, self.ids.device)

    def arranged(self, past: Sequence[int] | None = None) -> Arrangement:
        """Rows of equal length, and equal `past` [rows] where there is one, brought together."""
        key = None if past is None else tuple(past)
        if key not in self._arranged:
            before = [0] * len(self.lengths) if past is None else past
            self._arranged[key] = of_equal_length(self.lengths, before, self.ids.device)
        return self._arranged[key]

    @cached_property
    def padded(self) -> Arrangement:
        """Rows of similar length brought together, in few groups."""
        return of_similar_length(self.lengths, self.ids.device)

    def repeated(self, times: int) -> RaggedBatch:
        """All rows, and all of them again, so many times; each keeps its number."""
        segments = None if self.segments is None else self.segments.repeat(times)
        made = self._with(self.ids.repeat(times), segments, self.lengths * times, self.words * times)
        made.rows, made.tasks = self.rows * times, self.tasks * times
        return made

    def filled(self, tokens: int) -> RaggedBatch:
        """The batch with so many tokens in all: after its own rows stand others of one token, which are
        nobody's and have the number -1. Itself where it has so many."""
        extra = tokens - len(self.ids)
        if not extra:
            return self

        def longer(values: torch.Tensor) -> torch.Tensor:
            return torch.cat([values, values[:1].expand(extra)])

        segments = None if self.segments is None else longer(self.segments)
        made = self._with(longer(self.ids), segments, self.lengths + [1] * extra, self.words + [None] * extra)
        made.rows = self.rows + [-1] * extra
        return made

    def ends(self) -> tuple[RaggedBatch, torch.Tensor]:
        """The last token of each row alone, and where it stands in this batch. Every row must have one."""
        at = self.starts + self.counts - 1
        segments = None if self.segments is None else self.segments[at]
        made = self._with(self.ids[at], segments, [1] * len(self), [None] * len(self))
        return made, at

    def with_room(self, before: Sequence[int]) -> tuple[RaggedBatch, torch.Tensor]:
        """The batch with so many more tokens before each row's own, and where its own tokens then stand.

        What stands in the new places is the row's first token, and in its segment; a row without a token has
        no room.
        """
        own = np.asarray(self.lengths, np.int64)
        room = np.where(own > 0, np.asarray(before, np.int64), 0)
        starts = np.cumsum(own) - own
        first = np.repeat(np.minimum(starts, max(0, len(self.ids) - 1)), own + room)
        places = spans(np.cumsum(own + room) - own, own)
        taken = first.copy()
        taken[places] = np.arange(own.sum())
        at = on_device(taken, self.ids.device)
        words = [
            None if row is None else np.where(row < 0, row, row + extra)
            for row, extra in zip(self.words, room, strict=True)
        ]
        segments = None if self.segments is None else self.segments[at]
        longer = self._with(self.ids[at], segments, (own + room).tolist(), words)
        return longer, on_device(places, self.ids.device)

    def _with(
        self,
        ids: torch.Tensor,
        segments: torch.Tensor | None,
        lengths: list[int],
        words: list[np.ndarray | None],
    ) -> RaggedBatch:
        made = object.__new__(RaggedBatch)
        made.ids, made.segments, made.lengths, made.words = ids, segments, lengths, words
        made.rows, made.tasks, made._arranged = self.rows, self.tasks, {}
        return made


def in_batches(encoded: Sequence[Encoded], budget: int) -> Iterator[RaggedBatch]:
    """Ragged batches of at most `budget` tokens, shortest rows first, every row exactly once.

    A row longer than the budget makes a batch of its own. Sorting by length keeps the number of different
    lengths in a batch, and so the number of attention calls, small.
    """
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    for rows in _filled(order, (len(encoded[row]) for row in order), budget):
        yield RaggedBatch([encoded[row] for row in rows], rows)


def _filled(rows: Iterable[int], sizes: Iterable[int], budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    used = 0
    for row, size in zip(rows, sizes, strict=True):
        if batch and used + size > budget:
            yield batch
            batch, used = [], 0
        batch.append(row)
        used += size
    if batch:
        yield batch
