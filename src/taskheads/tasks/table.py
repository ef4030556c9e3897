"""A table in memory: named columns of Python values, each row knowing where it came from."""

from __future__ import annotations

from dataclasses import dataclass

from taskheads.errors import DataError


@dataclass
class Table:
    """Columns of equal length, read from one file.

    `columns[name][i]` is the value of row i: `str`, `int`, `float`, `bool`, a list of them, or None where
    the row has no such value. `rows[i]` is the number a user would look up: the line in a text file, the
    1-based record in a binary one.
    """

    path: str
    columns: dict[str, list]
    rows: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def error(self, problem: str, index: int, column: str) -> DataError:
        """An error about one cell of this table, to be raised by whoever found it."""
        return DataError(
            problem, file=self.path, row=self.rows[index], column=column, value=self.columns[column][index]
        )
