"""Rows to be answered, read one after another, so that a file or a pipe may be longer than memory.

What a file is, its ending tells: `.jsonl .ndjson .csv .tsv .parquet`, and `.txt` with a text on each line.
Anything else that `fit` reads is read here too, but as a whole. Standard input is JSON Lines if its first
line is a JSON object or a JSON string, and else a text on each line.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from taskheads.errors import DataError

if TYPE_CHECKING:
    import pyarrow.parquet as parquet

Row = dict[str, Any] | str
Lines = Iterable[tuple[int, str]]
_CELL_LIMIT = 2**31 - 1
_RECORDS = 4096


class Format(StrEnum):
    """What stands on a line."""

    jsonl = "jsonl"
    text = "text"


class Incoming:
    """An iterator of (line, row), the line being that of the file, or the 1-based record, on which it stands.

    `count` rows have been read.
    """

    def __init__(
        self, name: str, rows: Iterable[tuple[int, Row]], file: IO[bytes] | None = None, total: int = 0
    ) -> None:
        self.name, self.count = name, 0
        self._rows, self._file, self._total = rows, file, total

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        for line, row in self._rows:
            self.count += 1
            yield line, row

    def expected(self) -> int:
        """How many rows there will be, about as many as the bytes tell; 0 if that is not known."""
        if self._file is None or not self._file.seekable() or not self._file.tell():
            return self._total
        return round(self.count * os.fstat(self._file.fileno()).st_size / self._file.tell())


@contextmanager
def open_rows(
    source: str,
    format: Format | None = None,
    *,
    columns: Collection[str] | None = None,
    words: Collection[str] = (),
) -> Iterator[Incoming]:
    """Open a file, or standard input for "-".

    Parameters
    ----------
    format: in place of what the ending or the first line tells.
    columns: what is wanted of a Parquet file, so that its other columns need not be read; all by default.
    words: the columns that hold lists of words; a cell of a CSV file may then be written `["a", "b"]`.

    Raises
    ------
    DataError: while it is read; the message names the file and the line.
    """
    if source == "-":
        lines: Lines = _decoded("stdin", sys.stdin.buffer)
        format, lines = (format, lines) if format else _told(lines)
        yield Incoming("stdin", _READERS[format]("stdin", lines))
        return
    path, ending = Path(source), Path(source).suffix.lower()
    if ending == ".parquet" and path.is_file() and format is None:
        with _parquet_file(path) as file:
            yield Incoming(source, _parquet(path, file, columns), total=file.metadata.num_rows)
        return
    if format is None:
        format = {".jsonl": Format.jsonl, ".ndjson": Format.jsonl, ".txt": Format.text}.get(ending)
    if not path.is_file() or (format is None and ending not in (".csv", ".tsv")):
        yield Incoming(source, _whole(source))
        return
    with path.open("rb") as opened:
        lines = _decoded(source, opened)
        if format is not None:
            yield Incoming(source, _READERS[format](source, lines), opened)
        else:
            yield Incoming(source, _delimited(path, lines, words), opened)


def _told(lines: Lines) -> tuple[Format, Lines]:
    """Whether lines are JSON or texts, by the first that is not blank."""
    seen = []
    for number, line in lines:
        seen.append((number, line))
        if line.strip():
            break
    try:
        first = json.loads(seen[-1][1]) if seen else None
    except (ValueError, RecursionError):
        # A broken object is a mistake in JSON Lines rather than a text.
        first = {} if seen[-1][1].lstrip().startswith('{"') else None
    return Format.jsonl if isinstance(first, (dict, str)) else Format.text, chain(seen, lines)


def _json_lines(name: str, lines: Lines) -> Iterator[tuple[int, Row]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"broken JSON: {error.msg} (character {error.colno})", file=name, row=number
            ) from None
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 lists in each other
            raise DataError(f"JSON that cannot be read: {error}", file=name, row=number) from None
        if not isinstance(row, (dict, str)):
            raise DataError("an object or a text is needed", file=name, row=number, value=row)
        yield number, row


def _texts(_name: str, lines: Lines) -> Iterator[tuple[int, Row]]:
    return ((number, line.rstrip("\r\n")) for number, line in lines)


_READERS = {Format.jsonl: _json_lines, Format.text: _texts}


def _delimited(path: Path, lines: Lines, words: Collection[str]) -> Iterator[tuple[int, Row]]:
    """Cells are texts, whatever they look like; an empty one is nothing."""
    from taskheads.tasks.readers.delimited import infer

    lines = iter(lines)
    first = next(lines, (1, ""))
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first[1].count)
    quoting = csv.QUOTE_NONE if delimiter == "\t" and not _is_quoted(path) else csv.QUOTE_MINIMAL
    text = (line for _, line in chain([first], lines))
    reader = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    limit, start = csv.field_size_limit(_CELL_LIMIT), 1
    header: list[str] = []
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [name.strip() or f"column_{i}" for i, name in enumerate(cells, start=1)]
                for name in header:
                    if header.count(name) > 1:
                        raise DataError("two columns have this name", file=path, row=line, column=name)
                continue
            if len(cells) != len(header):
                problem = f"{len(cells)} cells, but the header has {len(header)}"
                raise DataError(problem, file=path, row=line)
            row: dict[str, Any] = {name: cell or None for name, cell in zip(header, cells, strict=True)}
            for name in words:
                if row.get(name):
                    cell = infer([row[name]])[0]
                    row[name] = cell if isinstance(cell, list) else row[name]
            yield line, row
    except csv.Error as error:
        raise DataError(f"broken quoting: {error}", file=path, row=start) from None
    finally:
        csv.field_size_limit(limit)


def _is_quoted(path: Path) -> bool:
    """Whether quotation marks in tab-separated cells quote them, rather than being characters of the text."""
    limit = csv.field_size_limit(_CELL_LIMIT)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            for _ in csv.reader(file, delimiter="\t", strict=True):
                pass
    except csv.Error:
        return False
    finally:
        csv.field_size_limit(limit)
    return True


def _parquet_file(path: Path) -> parquet.ParquetFile:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        return parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"cannot be read as Parquet: {error}", file=path) from error


def _parquet(
    path: Path, file: parquet.ParquetFile, columns: Collection[str] | None
) -> Iterator[tuple[int, Row]]:
    import pyarrow

    wanted = [name for name in file.schema_arrow.names if columns is None or name in columns]
    # One row group after another, and of it some rows at a time.
    batches = file.iter_batches(batch_size=_RECORDS, columns=wanted or None)
    try:
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"cannot be read as Parquet: {error}", file=path) from error


def _whole(source: str) -> Iterator[tuple[int, Row]]:
    from taskheads.tasks.readers import read_table

    table = read_table(source)
    for i, number in enumerate(table.rows):
        yield number, {name: values[i] for name, values in table.columns.items()}


def _decoded(name: str, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Lines as UTF-8, with or without a byte order mark, and nothing else."""
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError("the file is UTF-16; save it as UTF-8", file=name, row=1)
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            problem = f"byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8"
            raise DataError(problem, file=name, row=number) from None
