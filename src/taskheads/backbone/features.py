"""What a frozen backbone computes, once: one vector a row or a word, for any set of reads in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch

from taskheads.backbone.computing import Pieces, Progress, Table, compute
from taskheads.backbone.ragged import Encoded
from taskheads.backbone.reads import Read
from taskheads.errors import BackboneError

if TYPE_CHECKING:
    from taskheads.backbone.backbone import Backbone
    from taskheads.backbone.cache import FeatureCache

Form = Literal["text", "pair", "words"]
Item = str | tuple[str, str] | Sequence[str]

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
    budget: tokens of a batch at most, beside the few that some processors are faster with; by default what
        suits the backbone's device.
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
    if not reads:
        return {}
    distinct, row_of_item = _distinct(form, items)
    words = np.asarray([len(row) if form == "words" else 0 for row in distinct], np.int64)
    tables = [Table.empty(read, backbone.width_of(read.site), words) for read in reads]
    kept = None if cache is None else _Kept(cache, backbone.fingerprint, _keys(form, distinct))
    if kept is not None:
        kept.load(tables)
    wanted = np.flatnonzero(np.any([table.missing for table in tables], axis=0))
    if len(wanted):
        every_word = any(read.of_words for read in reads)
        windows = _windows(backbone, form, [distinct[row] for row in wanted], every_word)
        bytes_of_row = np.max([table.bytes_of_row for table in tables], axis=0)
        finished = compute(backbone, Pieces.of(windows, wanted), tables, budget, progress)
        for rows in _in_portions(finished, bytes_of_row):
            if kept is not None:
                kept.save(tables, rows)
    found = {table.read: table.of_rows(row_of_item) for table in tables}
    lengths = words[row_of_item].tolist()
    return {read: Words(values, lengths) if read.of_words else values for read, values in found.items()}


@dataclass(frozen=True)
class _Kept:
    """The part of a cache that belongs to some items, `keys` saying what they contain."""

    cache: FeatureCache
    fingerprint: str
    keys: np.ndarray

    def load(self, tables: list[Table]) -> None:
        for table in tables:
            found = self.cache.load(
                self.fingerprint, table.read, self.keys, table.values, table.starts, table.sizes
            )
            table.missing = ~found

    def save(self, tables: list[Table], rows: np.ndarray) -> None:
        for table in tables:
            mine = rows[table.missing[rows]]
            values = table.values[table.at(mine)]
            self.cache.save(self.fingerprint, table.read, self.keys[mine], values, table.sizes[mine])


def _check(backbone: Backbone, form: str, reads: list[Read]) -> None:
    if form not in get_args(Form):
        raise BackboneError(f"{form!r} is not a form of input; forms are {', '.join(get_args(Form))}")
    backbone.check(read.site for read in reads)
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


def _windows(backbone: Backbone, form: Form, items: list, every_word: bool) -> list[list[Encoded]]:
    """The token ids of each item: all windows of a row of words where `every_word` counts, else the first."""
    tokens = backbone.tokens
    assert tokens is not None
    if form == "words":
        windows = tokens.windows(items)
        return windows if every_word else [row[:1] for row in windows]
    rows = tokens.texts(items) if form == "text" else tokens.pairs(*zip(*items, strict=True))
    return [[row] for row in rows]


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
