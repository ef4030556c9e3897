"""Tables without lines, which leave columns out rather than break cells where a terminal is narrow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_GAP = 2


@dataclass(frozen=True)
class Column:
    """A title and its cells.

    Parameters
    ----------
    right: numbers stand to the right.
    spare: where the line is too narrow, the column with the highest `spare` is left out first; 0 never.
    wrap: prose, which may take several lines.
    """

    title: str
    cells: Sequence[str]
    right: bool = False
    spare: int = 0
    wrap: bool = False

    @property
    def width(self) -> int:
        widest = max(map(cell_len, (self.title, *self.cells)))
        return min(widest, 30) if self.wrap else widest


class FittedTable:
    """Columns side by side, a line for each row; columns without any content are not shown."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = [column for column in columns if any(column.cells)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        columns = fitting(self.columns, options.max_width)
        for column in columns:
            table.add_column(
                Text(column.title),
                justify="right" if column.right else "left",
                no_wrap=not column.wrap,
                overflow="fold" if column.wrap else "ellipsis",
            )
        for cells in zip(*(column.cells for column in columns), strict=True):
            table.add_row(*map(Text, cells))
        yield table


def named_lines(lines: Iterable[tuple[str, str]]) -> Table:
    """Names, and beside each a text; a name may be empty."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, _GAP, 0, 0))
    table.add_column(width=10, no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines:
        table.add_row(Text(f"  {name}"), Text(text))
    return table


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Those columns that fit in `width`: all, or all but the most spare ones."""
    kept = list(columns)
    while kept and sum(column.width + _GAP for column in kept) - _GAP > width:
        most = max(kept, key=lambda column: column.spare)
        if not most.spare:
            break
        kept.remove(most)
    return kept
