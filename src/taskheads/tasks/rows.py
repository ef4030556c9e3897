"""Rows of one split, whichever files they come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from taskheads.errors import DataError
from taskheads.tasks.suggest import did_you_mean, listed
from taskheads.tasks.table import Table


@dataclass
class Rows:
    """Columns of equal length whose rows know the file and the row they were read from.

    A `Table` is one file; `Rows` are what a split holds, when it has several files or part of one.
    """

    columns: dict[str, list]
    sources: list[tuple[str, int]]

    def __len__(self) -> int:
        return len(self.sources)

    @classmethod
    def of(cls, tables: Sequence[Table]) -> Rows:
        """Lay tables end to end; where one of them lacks a column its rows have None."""
        names = dict.fromkeys(name for table in tables for name in table.columns)
        columns: dict[str, list] = {}
        for name in names:
            columns[name] = []
            for table in tables:
                columns[name] += table.columns.get(name) or [None] * len(table)
        return cls(columns, [(table.path, row) for table in tables for row in table.rows])

    @property
    def path(self) -> str:
        return self.sources[0][0] if self.sources else ""

    def take(self, indices: Iterable[int]) -> Rows:
        """The rows at these positions, in this order."""
        indices = list(indices)
        columns = {name: [values[i] for i in indices] for name, values in self.columns.items()}
        return Rows(columns, [self.sources[i] for i in indices])

    def column(self, name: str) -> list[Any]:
        """The values of a column.

        Raises
        ------
        DataError: there is no such column; the message names the nearest one and all there are.
        """
        if name not in self.columns:
            near = did_you_mean(name, self.columns)
            problem = f"no such column{near}; the columns are {listed(self.columns)}"
            raise DataError(problem, file=self.path, column=name)
        return self.columns[name]

    def error(self, problem: str, index: int, column: str) -> DataError:
        """An error about one cell, to be raised by whoever found it."""
        path, row = self.sources[index]
        return DataError(problem, file=path, row=row, column=column, value=self.columns[column][index])
