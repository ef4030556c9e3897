"""Tables are never broken: what does not fit is left out, from what matters least."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from taskheads.report.tables import Column, FittedTable, fitting


def printed(renderable: RenderableType, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(renderable)
    return [line.rstrip() for line in file.getvalue().splitlines()]


COLUMNS = [
    Column("task", ["intent", "a"]),
    Column("rows", ["4,500", "12"], right=True, spare=1),
    Column("reads", ["layers 4 to 6", ""], spare=2),
]


def test_a_table_is_a_line_a_row() -> None:
    assert printed(FittedTable(COLUMNS), 80) == [
        "task     rows  reads",
        "intent  4,500  layers 4 to 6",
        "a          12",
    ]


def test_columns_are_left_out_from_the_most_spare() -> None:
    assert [column.title for column in fitting(COLUMNS, 28)] == ["task", "rows", "reads"]
    assert [column.title for column in fitting(COLUMNS, 27)] == ["task", "rows"]
    assert [column.title for column in fitting(COLUMNS, 12)] == ["task"]
    assert printed(FittedTable(COLUMNS), 4) == ["task", "int…", "a"]


def test_a_column_without_content_is_not_shown() -> None:
    assert printed(FittedTable([*COLUMNS[:1], Column("empty", ["", ""])]), 80) == ["task", "intent", "a"]


def test_markup_in_cells_is_text() -> None:
    assert printed(FittedTable([Column("x", ["[red]a[/red]"])]), 80)[1] == "[red]a[/red]"


def test_prose_wraps() -> None:
    table = FittedTable([Column("name", ["a"]), Column("what", ["word " * 30], wrap=True)])
    lines = printed(table, 40)
    assert len(lines) > 3
    assert max(map(len, lines)) <= 40
