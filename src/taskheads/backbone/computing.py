"""Rows through the frozen backbone, batch by batch, into tables of vectors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from taskheads.backbone.groups import spans
from taskheads.backbone.linear_maps import filled, packed
from taskheads.backbone.parallel import side_by_side
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.backbone.reads import Read, pool

if TYPE_CHECKING:
    from taskheads.backbone.backbone import Backbone

Progress = Callable[[int, int], None]

# Tokens of a batch. On a CPU the weights are read anew for every batch, so that small batches cost more, and
# large ones leave the caches.
_MOST_TOKENS = 1024
_FEWEST_TOKENS = 512
_GPU_TOKENS = 65536


@dataclass
class Table:
    """The vectors of one read: row r has `sizes[r]` of them (1 if pooled), from `values[starts[r]]` on."""

    read: Read
    values: torch.Tensor
    starts: np.ndarray
    sizes: np.ndarray
    missing: np.ndarray

    @classmethod
    def empty(cls, read: Read, width: int, words: np.ndarray) -> Table:
        sizes = words if read.of_words else np.ones_like(words)
        starts = np.cumsum(sizes) - sizes
        return cls(read, torch.zeros(int(sizes.sum()), width), starts, sizes, np.ones(len(sizes), bool))

    @property
    def bytes_of_row(self) -> np.ndarray:
        return self.sizes * (4 * self.values.shape[1])

    def at(self, rows: np.ndarray) -> torch.Tensor:
        """Where the vectors of `rows` stand in `values`."""
        return torch.from_numpy(spans(self.starts[rows], self.sizes[rows]))

    def of_rows(self, rows: np.ndarray) -> torch.Tensor:
        """The vectors of `rows`, one row after the other; no copy when that is all of them in order."""
        in_order = np.array_equal(rows, np.arange(len(self.sizes)))
        return self.values if in_order else self.values[self.at(rows)]


@dataclass
class Pieces:
    """What is fed to the model: the first window of every row, then the further windows of long rows.

    Attributes
    ----------
    encoded: the windows; the first `firsts` of them are the first of their row.
    row: the row that each window belongs to.
    word: how many of the row's words stand in windows before it.
    """

    encoded: list[Encoded]
    row: np.ndarray
    word: np.ndarray
    firsts: int

    @classmethod
    def of(cls, windows: list[list[Encoded]], rows: np.ndarray) -> Pieces:
        """From the windows of each of `rows`."""
        firsts = [row[0] for row in windows]
        further = [
            (number, before, window)
            for number, row in enumerate(windows)
            for before, window in zip(_counted(row), row[1:], strict=True)
        ]
        return cls(
            firsts + [window for _, _, window in further],
            np.concatenate([rows, rows[[number for number, _, _ in further]]]),
            np.asarray([0] * len(firsts) + [before for _, before, _ in further]),
            len(firsts),
        )


def _counted(windows: list[Encoded]) -> Iterator[int]:
    """How many words stand before each window but the first."""
    return itertools.accumulate(window.n_words for window in windows[:-1])


def compute(
    backbone: Backbone, pieces: Pieces, tables: list[Table], budget: int | None, progress: Progress | None
) -> Iterator[np.ndarray]:
    """Fill the tables; after each batch, the rows that are finished."""
    lengths = np.asarray([len(piece) for piece in pieces.encoded])
    total, done = int(lengths.sum()), 0
    # The model is not asked about rows without a token: they have their zeros.
    yield pieces.row[lengths == 0]
    left = np.bincount(pieces.row[lengths > 0])
    numbers = np.flatnonzero(lengths)
    further = numbers >= pieces.firsts
    # Further windows are batched apart, so that reads which do not need them see the same batches.
    for some, first in ((numbers[~further], True), (numbers[further], False)):
        if not len(some):
            continue
        planned, workers = _plan(backbone, lengths[some])
        wanted = [table for table in tables if first or table.read.of_words]

        def read(batch: RaggedBatch, some: np.ndarray = some, wanted: list[Table] = wanted) -> None:
            _read(backbone, batch, wanted, pieces.row[some[batch.rows]], pieces.word[some[batch.rows]])

        batches = backbone.batches([pieces.encoded[number] for number in some], budget or planned)
        with packed(backbone.model, int(lengths[some].sum())):
            for batch in side_by_side(read, batches, workers):
                rows = pieces.row[some[batch.rows]]
                np.subtract.at(left, rows, 1)
                done += len(batch.ids)
                if progress is not None:
                    progress(done, total)
                yield np.unique(rows[left[rows] == 0])


def _read(
    backbone: Backbone, batch: RaggedBatch, tables: list[Table], rows: np.ndarray, word: np.ndarray
) -> None:
    """Run one batch and write its vectors, `word` being how far into their row each row's words start."""
    tokens = len(batch.ids)
    with torch.inference_mode():
        run = batch.filled(filled(tokens)) if _fillable(backbone) else batch
        found = backbone.run(run, list({table.read.site for table in tables}))
        for table in tables:
            own = found[table.read.site][:tokens]
            values = pool(own, batch, table.read.pooling).to("cpu", torch.float32)
            at, wanted = table.starts[rows], table.missing[rows]
            if table.read.of_words:
                sizes = np.asarray([0 if row is None else len(row) for row in batch.words])
                at, wanted = spans(at + word, sizes), np.repeat(wanted, sizes)
            # What the cache held stays as it is, to the last bit.
            if not wanted.all():
                at, values = at[wanted], values[torch.from_numpy(wanted)]
            table.values.index_copy_(0, torch.from_numpy(at), values)


def _plan(backbone: Backbone, lengths: np.ndarray) -> tuple[int, int]:
    """How many tokens a batch has at most, and how many batches run side by side."""
    total = int(lengths.sum())
    if backbone.device.type != "cpu":
        return _GPU_TOKENS, 1
    workers = min(torch.get_num_threads(), total // _FEWEST_TOKENS)
    if workers < 2 or backbone.one_at_a_time:
        return _MOST_TOKENS, 1
    # As many batches for each worker, all of about the same size.
    batches = workers * -(-total // (workers * _MOST_TOKENS))
    most = -(-total // batches) + int(lengths.max())
    return filled(most) if _fillable(backbone) else most, workers


def _fillable(backbone: Backbone) -> bool:
    """Whether tokens may be added to a batch, with which linear maps are faster."""
    return backbone.ragged and backbone.device.type == "cpu" and backbone.precision == "float32"
