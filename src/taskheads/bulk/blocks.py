"""Rows in the blocks in which they are answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from taskheads.bulk.incoming import Incoming, Row
from taskheads.errors import DataError
from taskheads.model.prediction import BLOCK


@dataclass(frozen=True)
class Block:
    """Rows that are answered together.

    `first_row` counts all rows of the input from 1; `lines` says for each row on which line, or as which
    record, of `source` it stands; `digest` tells these rows and all before them from others; `expected` is
    about how many rows there will be in all, 0 if that is not known.
    """

    source: str
    first_row: int
    lines: list[int]
    rows: list[Row]
    digest: str
    expected: int

    @property
    def last_row(self) -> int:
        return self.first_row + len(self.rows) - 1

    def located(self, error: DataError) -> DataError:
        """An error that numbers rows, as one about a line of the file."""
        line = None if error.row is None else self.lines[error.row - self.first_row]
        value = {} if error.value is None else {"value": error.value}
        return DataError(error.problem, file=self.source, row=line, column=error.column, **value)


def in_blocks(rows: Incoming, columns: Collection[str], done: int = 0, digest: str = "") -> Iterator[Block]:
    """The rows block by block, the `done` first ones left out, and of each row the `columns` that are read.

    `digest` is that of the rows to be left out. Raises DataError if they are other rows.
    """
    seen = hashlib.blake2b(digest_size=16)
    source, count = iter(rows), 0
    while read := list(islice(source, BLOCK)):
        kept = [_only(row, columns) for _, row in read]
        seen.update(json.dumps(kept, default=str).encode())
        first_row, count = count + 1, count + len(kept)
        if count == done and seen.hexdigest() != digest:
            raise _others(rows, done)
        if count > done:
            lines = [line for line, _ in read]
            yield Block(rows.name, first_row, lines, kept, seen.hexdigest(), rows.expected())
    if count < done:
        raise _others(rows, done)


def _only(row: Row, columns: Collection[str]) -> Row:
    return row if isinstance(row, str) else {name: row[name] for name in columns if name in row}


def _others(rows: Incoming, done: int) -> DataError:
    problem = f"its first {done:,} rows are not those that were answered before the run was cut off"
    return DataError(problem, file=rows.name)
