"""Ragged batches: the tokens of many rows laid end to end, with no padding between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch


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


@dataclass(frozen=True)
class Group:
    """`count` rows of equal `length` that stand side by side, from token `start` on."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.count * self.length


class RaggedBatch:
    """Tokens of all rows in one long row, with the rows' lengths beside them.

    Attributes
    ----------
    ids, segments: int64 [N], N being the number of tokens of all rows; segments may be None.
    lengths: the rows' lengths, in the order in which they stand.
    rows: for each row in that order, its number in the caller's sequence.
    """

    def __init__(self, encoded: Sequence[Encoded], rows: Sequence[int] | None = None) -> None:
        self.rows = list(range(len(encoded))) if rows is None else list(rows)
        self.lengths = [len(row) for row in encoded]
        self.ids = torch.from_numpy(np.concatenate([row.ids for row in encoded]).astype(np.int64))
        self.segments = None
        if any(row.segments is not None for row in encoded):
            parts = [np.zeros(len(row)) if row.segments is None else row.segments for row in encoded]
            self.segments = torch.from_numpy(np.concatenate(parts).astype(np.int64))
        self.words = [row.words for row in encoded]

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device | str) -> RaggedBatch:
        """This batch with its tokens on `device`; itself when they are there already."""
        if self.ids.device == torch.device(device):
            return self
        moved = object.__new__(RaggedBatch)
        moved.rows, moved.lengths, moved.words = self.rows, self.lengths, self.words
        moved.ids = self.ids.to(device)
        moved.segments = None if self.segments is None else self.segments.to(device)
        return moved

    @cached_property
    def starts(self) -> torch.Tensor:
        """Index of each row's first token, int64 [rows]."""
        return self._on_device(np.concatenate([[0], np.cumsum(self.lengths)[:-1]]))

    @cached_property
    def counts(self) -> torch.Tensor:
        """The rows' lengths as a tensor, int64 [rows]."""
        return self._on_device(np.asarray(self.lengths))

    @cached_property
    def row_of_token(self) -> torch.Tensor:
        """Which row each token belongs to, int64 [N]."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.ids.device), self.counts)

    @cached_property
    def positions(self) -> torch.Tensor:
        """Each token's position in its own row, int64 [N]."""
        return torch.arange(len(self.ids), device=self.ids.device) - self.starts[self.row_of_token]

    @cached_property
    def word_tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For every word of every row, the index of its first token, and whether it has one."""
        words = [np.asarray([], np.int64) if row is None else row for row in self.words]
        starts = np.repeat(self.starts.cpu().numpy(), [len(row) for row in words])
        inside = np.concatenate(words)
        at = self._on_device(np.where(inside < 0, 0, starts + inside))
        return at, torch.from_numpy(inside >= 0).to(self.ids.device)

    @cached_property
    def sorted_tokens(self) -> torch.Tensor | None:
        """The order of tokens that brings rows of equal length together; None when they stand so already."""
        if all(a <= b for a, b in zip(self.lengths, self.lengths[1:], strict=False)):
            return None
        length_of_token = self.counts[self.row_of_token]
        return torch.argsort(length_of_token, stable=True)

    @cached_property
    def groups(self) -> list[Group]:
        """Runs of rows of equal length, in the order of `sorted_tokens`; rows without a token are in none."""
        lengths, counts = np.unique([length for length in self.lengths if length], return_counts=True)
        groups, start = [], 0
        for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
            groups.append(Group(start, count, length))
            start = groups[-1].stop
        return groups

    def _on_device(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self.ids.device)


def spans(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1, ..., start + size - 1 of every span, one span after the other."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())


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
