"""CSV and TSV: cells are text, and a column becomes numbers or lists only if every one of its cells does."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskheads.errors import DataError
from taskheads.tasks.readers.encoding import read_utf8
from taskheads.tasks.table import Table

# A leading zero or a plus marks a code (007, +49 …), which a number would not give back as it was.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.I)
_CELL_LIMIT = 2**31 - 1


def read_delimited(path: Path) -> Table:
    """Read a CSV (delimiter `,`, or `;` or a tab if the header has more of them) or TSV file with a header.

    An empty cell is None. A column becomes `int`, else `float` (text such as `nan` or `inf` included, so
    that validation can name the row), else lists (cells such as `["a", "b"]`, as JSON or Python write
    them) if all its other cells can; otherwise it stays text, exactly as written. A row is known by the
    line on which it begins.

    Raises
    ------
    DataError: no rows, a column named twice, or a row with more or fewer cells than the header.
    """
    text = read_utf8(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=text.split("\n", 1)[0].count)
    try:
        header, records, lines = _parse(path, text, delimiter, csv.QUOTE_MINIMAL)
    except DataError:
        if delimiter != "\t":
            raise
        # Tab-separated text has no quoting by its definition; a lone quotation mark is then a character.
        header, records, lines = _parse(path, text, delimiter, csv.QUOTE_NONE)
    columns = {name: infer([record[i] for record in records]) for i, name in enumerate(header)}
    return Table(str(path), columns, lines)


def infer(cells: list[str]) -> list[Any]:
    """Turn the cells of a column into ints, floats or lists if all that are not empty can be; else text."""
    filled = [cell for cell in cells if cell != ""]
    convert: Callable[[str], Any] = str
    if filled and all(_INTEGER.fullmatch(cell.strip()) for cell in filled):
        convert = int
    elif filled and all(_NUMBER.fullmatch(cell.strip()) for cell in filled):
        convert = float
    elif filled and all(cell.startswith("[") and cell.endswith("]") for cell in filled):
        try:
            lists = {cell: _list(cell) for cell in filled}
        except (ValueError, SyntaxError):
            lists = {}
        convert = (lambda cell: list(lists[cell])) if lists else str
    return [None if cell == "" else convert(cell) for cell in cells]


def _list(cell: str) -> list[Any]:
    try:
        value = json.loads(cell)
    except json.JSONDecodeError:
        value = ast.literal_eval(cell)  # pandas writes a list with repr; literal_eval runs no code
    if not isinstance(value, list):
        raise ValueError(cell)
    return value


def _parse(
    path: Path, text: str, delimiter: str, quoting: Any
) -> tuple[list[str], list[list[str]], list[int]]:
    records: list[list[str]] = []
    lines: list[int] = []
    limit = csv.field_size_limit(_CELL_LIMIT)  # the module's own limit hides which row is too long
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    start = 1
    try:
        for record in reader:
            if any(cell.strip() for cell in record):
                records.append(record)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"broken quoting: {error}", file=path, row=start) from None
    finally:
        csv.field_size_limit(limit)
    header = [name.strip() or f"column_{i}" for i, name in enumerate(records[0], start=1)]
    for name in header:
        if header.count(name) > 1:
            raise DataError("two columns have this name", file=path, row=lines[0], column=name)
    for record, line in zip(records, lines, strict=True):
        if len(record) != len(header):
            problem = f"{len(record)} cells, but the header has {len(header)}"
            raise DataError(problem, file=path, row=line)
    return header, records[1:], lines[1:]
