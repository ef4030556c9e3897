"""Rows brought together, so that one operation serves many: rows of one length, or padded to one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

# Attention to a group costs about as much, whatever its size, as so many pairs of tokens beyond that:
# measured in training, where it is some forty small operations forwards and backwards.
_PAIRS_A_GROUP = 1 << 12


@dataclass(frozen=True)
class Group:
    """`count` rows that stand side by side, `length` places each, from place `start` on.

    rows: which rows of the batch they are. past: how many keys and values come before those of each.
    filled: which places are a row's own tokens, the first ones, bool [count, length]; None where all are.
    """

    start: int
    count: int
    length: int
    rows: np.ndarray
    past: int = 0
    filled: torch.Tensor | None = None

    @property
    def stop(self) -> int:
        return self.start + self.size

    @property
    def size(self) -> int:
        """Its places."""
        return self.count * self.length


@dataclass(frozen=True)
class Arrangement:
    """The rows of a batch, group by group; rows without a token are in none.

    order: for each place, which token stands there, in padding its row's first one, int64 [places]; None
    where all tokens stand so already. place: for each token of a group, its place, int64, None with `order`.
    tokens: which tokens are in a group, ascending, int64; None where all are.
    """

    groups: list[Group]
    order: torch.Tensor | None
    place: torch.Tensor | None
    tokens: torch.Tensor | None = None

    def split(self, tokens: torch.Tensor) -> Sequence[torch.Tensor]:
        """[N, ...] by token → [group.size, ...] for each group."""
        # At once: the gradient of a slice would be as large as all tokens, for every group anew.
        placed = tokens if self.order is None else tokens.index_select(0, self.order)
        return placed.split([group.size for group in self.groups])

    def taken(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """[group.size, ...] of each group → [N, ...] by token, of the tokens that are in a group."""
        places = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        return places if self.place is None else places.index_select(0, self.place)


def of_equal_length(lengths: Sequence[int], past: Sequence[int], device: torch.device) -> Arrangement:
    """A group for each length, and `past`, that rows have; the shortest first."""
    sizes, before = np.asarray(lengths, np.int64), np.asarray(past, np.int64)
    rows = np.lexsort((before, sizes))  # stable: by length, then by past
    rows = rows[sizes[rows] > 0]
    cuts = np.flatnonzero((np.diff(sizes[rows]) != 0) | (np.diff(before[rows]) != 0)) + 1
    return _together(np.split(rows, cuts), sizes, before, device)


def of_similar_length(lengths: Sequence[int], device: torch.device) -> Arrangement:
    """Few groups, padded to the longest row of each, so that attention to all of them costs least."""
    sizes = np.asarray(lengths, np.int64)
    rows = np.argsort(sizes, kind="stable")
    rows = rows[sizes[rows] > 0]
    return _together(np.split(rows, _cuts(sizes[rows])), sizes, np.zeros_like(sizes), device)


def of_one_kind(lengths: Sequence[int], kinds: Sequence[int | None], device: torch.device) -> Arrangement:
    """Groups of rows of one kind, padded, where no row becomes more than twice as long; rows whose kind is
    None are in no group."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, (length, kind) in enumerate(zip(lengths, kinds, strict=True)):
        if kind is not None:
            alike[kind, length.bit_length()].append(row)  # with as many binary digits
    sizes = np.asarray(lengths, np.int64)
    return _together(map(np.asarray, alike.values()), sizes, np.zeros_like(sizes), device)


def _together(
    parts: Iterable[np.ndarray], sizes: np.ndarray, past: np.ndarray, device: torch.device
) -> Arrangement:
    """The rows of each part in a group, as long as the longest; parts without a token have none."""
    groups, start = [], 0
    for rows in parts:
        length = int(sizes[rows].max(initial=0))
        if not length:
            continue
        inside = np.arange(length) < sizes[rows, None]
        filled = None if inside.all() else on_device(inside, device)
        groups.append(Group(start, len(rows), length, rows, int(past[rows[0]]), filled))
        start = groups[-1].stop
    return _arranged(groups, sizes, device)


def _cuts(sizes: np.ndarray) -> list[int]:
    """Before which of these rows, ascending by size, a new group begins: the cheapest way to cut them up."""
    lengths, counts = np.unique(sizes, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    # The least cost of the rows of so many lengths from below, and where the last group of those begins.
    least, begins = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, np.int64)
    for end, length in enumerate(lengths, 1):
        costs = least[:end] + _PAIRS_A_GROUP + (before[end] - before[:end]) * int(length) ** 2
        begins[end] = np.argmin(costs)
        least[end] = costs[begins[end]]
    cuts, end = [], begins[-1]
    while end:
        cuts.append(int(before[end]))
        end = begins[end]
    return cuts[::-1]


def _arranged(groups: list[Group], sizes: np.ndarray, device: torch.device) -> Arrangement:
    rows = np.concatenate([np.empty(0, np.int64), *(group.rows for group in groups)])
    widths = np.repeat([group.length for group in groups], [group.count for group in groups]).astype(np.int64)
    inside = spans(np.zeros_like(widths), widths)
    filled = inside < np.repeat(sizes[rows], widths)
    starts = np.cumsum(sizes) - sizes
    order = np.repeat(starts[rows], widths) + np.where(filled, inside, 0)
    if np.array_equal(order, np.arange(sizes.sum())):
        return Arrangement(groups, None, None)
    place = np.full(int(sizes.sum()), -1, np.int64)
    place[order[filled]] = np.flatnonzero(filled)
    held = np.flatnonzero(place >= 0)
    return Arrangement(
        groups,
        on_device(order, device),
        on_device(place[held], device),
        None if len(held) == len(place) else on_device(held, device),
    )


def on_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Truth values, or numbers as int64. A batch that was run in inference mode first may be trained on
    later."""
    with torch.inference_mode(False):
        return torch.from_numpy(values if values.dtype == bool else values.astype(np.int64)).to(device)


def spans(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1, ..., start + size - 1 of every span, one span after the other."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())
