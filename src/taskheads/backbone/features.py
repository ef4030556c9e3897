"""What a frozen backbone computes, once: one vector a row or a word, for any set of reads in one pass."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from taskheads.backbone.ragged import Encoded, RaggedBatch, spans
from taskheads.backbone.reads import Read, pool
from taskheads.errors import BackboneError

if TYPE_CHECKING:
    from taskheads.backbone.backbone import Backbone
    from taskheads.backbone.cache import FeatureCache

Form = Literal["text", "pair", "words"]
Item = str | tuple[str, str] | Sequence[str]
Progress = Callable[[int, int], None]

# What is computed is handed to the cache in portions of this size, so that a kill loses little.
_PORTION_BYTES = 32 << 20


@dataclass(frozen=True)
class Words:
    """Vectors of words: `values` [words of all rows, width], and how many of them each row has."""

    values: torch.Tensor
    lengths: list[int]


def extract(
    backbone: Backbone,
    form: Form,
    items: Sequence[Item],
    reads: Iterable[Read],
    *,
    cache: FeatureCache | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> dict[Read, torch.Tensor | Words]:
    """The vectors that `reads` take from the frozen backbone, for every item, in the order of `items`.

    Equal items are computed once, and all reads come from one forward pass a batch, up to the deepest site
    that is read. The batches depend on the items (and on which of them the cache lacks) and not on the reads:
    reading more changes no bit of what was read before.

    Parameters
    ----------
    form: "text" (items are strings), "pair" (pairs of strings, encoded jointly) or "words" (lists of words).
    reads: `words` reads need the form "words". There, rows beyond the tokenizer's limit are read in
        overlapping windows, every word from the window in which it stands farther from a cut; a pooled read
        of such a row is of its first window.
    cache: where vectors are looked up first and kept; None computes all and keeps nothing.
    budget: tokens a batch at most; by default what suits the backbone's device.
    progress: called with (tokens done, tokens in all) after every batch.

    Returns
    -------
    float32, on the CPU: [items, width] for a pooled read, `Words` for a `words` read. Rows and words without
    a token have zeros.

    Raises BackboneError for a site which the backbone does not have, a `words` read of another form, or a
    backbone without a tokenizer.
    """
    reads = list(dict.fromkeys(reads))
    _check(backbone, form, reads)
    distinct, row_of_item = _distinct(form, items)
    sizes = np.asarray([len(row) if form == "words" else 0 for row in distinct], np.int64)
    tables = [_Table.empty(read, backbone.width_of(read.site), sizes) for read in reads]
    missing = np.full(len(distinct), bool(reads))
    keys = np.empty((0, 16), np.uint8)
    if cache is not None and len(distinct):
        keys = _keys(form, distinct)
        for table in tables:
            found = cache.load(
                backbone.fingerprint, table.read, keys, table.values, table.starts, table.sizes
            )
            table.missing = ~found
        missing = np.any([table.missing for table in tables], axis=0) if tables else missing
    wanted = np.flatnonzero(missing)
    if len(wanted):
        every_word = any(read.of_words for read in reads)
        pieces = _Pieces.of(backbone, form, [distinct[row] for row in wanted], wanted, every_word)
        finished = _compute(backbone, pieces, tables, budget or _budget(backbone), progress)
        bytes_of_row = np.max([table.bytes_of_row for table in tables], axis=0)
        for rows in _in_portions(finished, bytes_of_row):
            if cache is None:
                continue
            for table in tables:
                mine = rows[table.missing[rows]]
                values = table.values[table.at(mine)]
                cache.save(backbone.fingerprint, table.read, keys[mine], values, table.sizes[mine])
    return {table.read: table.of_items(row_of_item) for table in tables}


def _check(backbone: Backbone, form: str, reads: list[Read]) -> None:
    if form not in get_args(Form):
        raise BackboneError(f"{form!r} is not a form of input; forms are {', '.join(get_args(Form))}")
    backbone.layout.check(read.site for read in reads)
    if backbone.tokens is None:
        raise BackboneError(
            f"the backbone {backbone.name!r} has no tokenizer, so it cannot read {form} input"
        )
    for read in reads:
        if read.of_words and form != "words":
            raise BackboneError(f"{read} reads words, but the input is of the form {form!r}")


def _distinct(form: str, items: Sequence[Item]) -> tuple[list, np.ndarray]:
    """The distinct items in order of appearance, and which of them each item is."""
    number: dict = {}
    row_of_item = np.fromiter(
        (number.setdefault(item if form == "text" else tuple(item), len(number)) for item in items),
        np.int64,
        len(items),
    )
    return list(number), row_of_item


def _keys(form: str, items: Sequence[Item]) -> np.ndarray:
    """What identifies the content of each item, uint8 [items, 16]."""

    def key(item: Item) -> bytes:
        # Lengths stand before the parts: no two lists of parts are written alike.
        parts = [item] if isinstance(item, str) else item
        text = "".join([form, *(f"\n{len(part)}:{part}" for part in parts)])
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    return np.frombuffer(b"".join(map(key, items)), np.uint8).reshape(-1, 16)


def _budget(backbone: Backbone) -> int:
    return 4096 if backbone.device.type == "cpu" else 65536


@dataclass
class _Table:
    """The vectors of one read: row r has `sizes[r]` of them (1 if pooled), from `values[starts[r]]` on."""

    read: Read
    values: torch.Tensor
    starts: np.ndarray
    sizes: np.ndarray
    missing: np.ndarray

    @classmethod
    def empty(cls, read: Read, width: int, words: np.ndarray) -> _Table:
        sizes = words if read.of_words else np.ones_like(words)
        starts = np.cumsum(sizes) - sizes
        return cls(read, torch.zeros(int(sizes.sum()), width), starts, sizes, np.ones(len(sizes), bool))

    @property
    def bytes_of_row(self) -> np.ndarray:
        return self.sizes * (4 * self.values.shape[1])

    def at(self, rows: np.ndarray) -> torch.Tensor:
        """Where the vectors of `rows` stand in `values`."""
        return torch.from_numpy(spans(self.starts[rows], self.sizes[rows]))

    def of_items(self, row_of_item: np.ndarray) -> torch.Tensor | Words:
        in_order = np.array_equal(row_of_item, np.arange(len(self.sizes)))
        values = self.values if in_order else self.values[self.at(row_of_item)]
        return Words(values, self.sizes[row_of_item].tolist()) if self.read.of_words else values


@dataclass
class _Pieces:
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
    def of(cls, backbone: Backbone, form: Form, items: list, rows: np.ndarray, every_word: bool) -> _Pieces:
        tokens = backbone.tokens
        assert tokens is not None
        if form == "words":
            windows = tokens.windows(items)
        else:
            rows_ = tokens.texts(items) if form == "text" else tokens.pairs(*zip(*items, strict=True))
            windows = [[row] for row in rows_]
        firsts = [row[0] for row in windows]
        further = [
            (number, before, window)
            for number, row in enumerate(windows if every_word else ())
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


def _compute(
    backbone: Backbone, pieces: _Pieces, tables: list[_Table], budget: int, progress: Progress | None
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
        for batch in backbone.batches([pieces.encoded[number] for number in some], budget):
            at = some[batch.rows]
            _read(
                backbone,
                batch,
                [t for t in tables if first or t.read.of_words],
                pieces.row[at],
                pieces.word[at],
            )
            np.subtract.at(left, pieces.row[at], 1)
            done += len(batch.ids)
            if progress is not None:
                progress(done, total)
            yield pieces.row[at][left[pieces.row[at]] == 0]


def _read(
    backbone: Backbone, batch: RaggedBatch, tables: list[_Table], rows: np.ndarray, word: np.ndarray
) -> None:
    """Run one batch and write its vectors, `word` being how far into their row each row's words start."""
    with torch.inference_mode():
        found = backbone.run(batch, list({table.read.site for table in tables}))
        for table in tables:
            values = pool(found[table.read.site], batch, table.read.pooling).to("cpu", torch.float32)
            if table.read.of_words:
                sizes = np.asarray([0 if row is None else len(row) for row in batch.words])
            else:
                sizes = np.ones_like(rows)
            at = spans(table.starts[rows] + word * table.read.of_words, sizes)
            # What the cache held stays as it is, to the last bit.
            wanted = np.repeat(table.missing[rows], sizes)
            if not wanted.all():
                at, values = at[wanted], values[torch.from_numpy(wanted)]
            table.values.index_copy_(0, torch.from_numpy(at), values)


def _in_portions(finished: Iterable[np.ndarray], bytes_of_row: np.ndarray) -> Iterator[np.ndarray]:
    waiting: list[np.ndarray] = []
    size = 0
    for rows in finished:
        waiting.append(rows)
        size += int(bytes_of_row[rows].sum())
        if size >= _PORTION_BYTES:
            yield np.concatenate(waiting)
            waiting, size = [], 0
    if waiting:
        yield np.concatenate(waiting)
