"""JSON Lines and JSON: one object a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskheads.errors import DataError
from taskheads.tasks.readers.encoding import read_utf8
from taskheads.tasks.suggest import listed
from taskheads.tasks.table import Table


def read_json_lines(path: Path) -> Table:
    """Read one JSON object a line; blank lines are skipped, a row is known by its line.

    Raises
    ------
    DataError: a line is not JSON, or is not an object (the message names the line).
    """
    return _json_lines(path, read_utf8(path))


def read_json(path: Path) -> Table:
    """Read a JSON document that holds rows, known by their 1-based position.

    Four shapes hold rows: a list of objects; an object of lists of equal length (its columns); an object
    of which exactly one value is a list of objects (`{"version": …, "data": […]}`); and JSON Lines under
    the wrong name.

    Raises
    ------
    DataError: the document is broken (the message names the line) or has none of these shapes.
    """
    text = read_utf8(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text[: error.pos].strip().count("\n") == 0:
            return _json_lines(path, text)
        raise DataError(f"broken JSON: {error.msg}", file=path, row=error.lineno) from None
    if isinstance(document, dict):
        values = list(document.values())
        tables = [name for name, value in document.items() if _is_rows(value)]
        if len(tables) > 1:
            raise DataError(f"several lists of objects ({listed(tables)}): which are the rows?", file=path)
        if tables:
            document = document[tables[0]]
        elif values and all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
            return Table(str(path), document, list(range(1, len(values[0]) + 1)))
    if not isinstance(document, list):
        raise DataError("the rows were looked for as a list of objects, and there is none", file=path)
    return _table(path, document, range(1, len(document) + 1))


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _json_lines(path: Path, text: str) -> Table:
    records, lines = [], []
    # Split at "\n" alone: str.splitlines also breaks at U+2028 and others, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(
                    f"broken JSON: {error.msg} (character {error.colno})", file=path, row=number
                ) from None
            lines.append(number)
    return _table(path, records, lines)


def _table(path: Path, records: list[Any], rows: Sequence[int]) -> Table:
    for record, row in zip(records, rows, strict=True):
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise DataError(f"an object is needed, this is a {kind}", file=path, row=row, value=record)
    names = dict.fromkeys(name for record in records for name in record)
    return Table(str(path), {name: [record.get(name) for record in records] for name in names}, list(rows))
