"""Rows to be answered: what each form of input holds, where every row stands, and what cannot be read."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from taskheads.bulk.incoming import Format, Row, open_rows
from taskheads.errors import DataError


def read(source: object, format: Format | None = None, words: tuple[str, ...] = ()) -> list[Row]:
    with open_rows(str(source), format, words=words) as rows:
        return [row for _, row in rows]


def piped(monkeypatch: pytest.MonkeyPatch, content: str, format: Format | None = None) -> list[Row]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    return read("-", format)


def test_json_lines_hold_objects_and_texts(write) -> None:
    path = write("a.jsonl", '\ufeff{"text": "a\u2028b"}\n\n"c"\n')
    assert read(path) == [{"text": "a\u2028b"}, "c"]


def test_a_text_a_line(write) -> None:
    assert read(write("a.txt", "one\r\n\ntwo, three")) == ["one", "", "two, three"]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('{"text": "a"}\n"b"\n', [{"text": "a"}, "b"]),
        ('\n"a"\n', ["a"]),
        ('7\n{"text": "a"}\n', ["7", '{"text": "a"}']),
        ("[a] first\nsecond\n", ["[a] first", "second"]),
        ("{x} is a set\n", ["{x} is a set"]),
        ('"Yes", he said.\n', ['"Yes", he said.']),
        ("", []),
    ],
)
def test_the_first_line_of_a_pipe_tells_what_it_is(content, rows, monkeypatch) -> None:
    assert piped(monkeypatch, content) == rows


def test_the_user_has_the_last_word(monkeypatch) -> None:
    assert piped(monkeypatch, '"a"\n', Format.text) == ['"a"']
    with pytest.raises(DataError, match="stdin, row 1: broken JSON"):
        piped(monkeypatch, "a\n", Format.jsonl)


def test_a_broken_object_is_no_text(monkeypatch) -> None:
    with pytest.raises(DataError, match="stdin, row 1: broken JSON"):
        piped(monkeypatch, '{"text": "a"\n')


def test_cells_are_texts_but_for_lists_of_words(write) -> None:
    path = write("a.csv", 'id;text;tokens\n7;"a;\nb";"[""c"", ""d""]"\n8;;e f\n')
    assert read(path, words=("tokens",)) == [
        {"id": "7", "text": "a;\nb", "tokens": ["c", "d"]},
        {"id": "8", "text": None, "tokens": "e f"},
    ]


def test_quotation_marks_in_tab_separated_text(write) -> None:
    assert read(write("a.tsv", 'text\tx\n"a"\tb\n')) == [{"text": "a", "x": "b"}]
    assert read(write("b.tsv", 'text\tx\n"a\tb\n')) == [{"text": '"a', "x": "b"}]


def test_parquet_and_what_is_read_as_a_whole(write, tmp_path: Path) -> None:
    rows = [{"text": "a", "n": 1}, {"text": None, "n": 2}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == rows
    assert read(write("a.json", '[{"text": "a"}]')) == [{"text": "a"}]
    assert read(write("a.conll", "Rome B-place\nis O\n")) == [
        {"tokens": ["Rome", "is"], "tags": ["B-place", "O"]}
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n\n{"a": }\n', "row 3: broken JSON: Expecting value"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "row 2, value [1]: an object or a text is needed"),
        ("a.jsonl", b"[" * 100_000, "row 1: JSON that cannot be read"),
        ("a.jsonl", b"1" * 5000, "row 1: JSON that cannot be read"),
        ("a.jsonl", b'"a"\n"na\xefve"\n', "row 2: byte 0xef is not UTF-8"),
        ("a.jsonl", '"a"\n'.encode("utf-16"), "row 1: the file is UTF-16"),
        ("a.csv", b'text,x\n"a\nb",c\nd\n', "row 4: 1 cells, but the header has 2"),
        ("a.csv", b'text,x\na,"b"c\n', "row 2: broken quoting"),
        ("a.csv", b"text,text\na,b\n", "row 1, column 'text': two columns have this name"),
        ("a.parquet", b"PAR", "cannot be read as Parquet"),
        ("a.xls", b"x", "cannot read '.xls' files"),
    ],
)
def test_what_cannot_be_read(name: str, content: bytes, message: str, write) -> None:
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_is_not_there(write) -> None:
    path = write("rows.jsonl", '"a"\n')
    with pytest.raises(DataError, match=r"did you mean 'rows\.jsonl'"):
        read(path.with_name("row.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.jsonl", '"a"\n\n\n"b"\n"c"', [1, 4, 5]),
        ("a.csv", 'text\n"a\nb"\n\nc\n', [2, 5]),
        ("a.txt", "a\n\nb\n", [1, 2, 3]),
    ],
)
def test_every_row_knows_its_line(name: str, content: str, lines: list[int], write) -> None:
    with open_rows(str(write(name, content))) as rows:
        assert [line for line, _ in rows] == lines


def test_parquet_is_read_by_row_groups_and_only_what_is_wanted(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {i}" for i in range(10_000)], "other": list(range(10_000))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1_000)
    with open_rows(str(tmp_path / "a.parquet"), columns=("text", "absent")) as rows:
        assert rows.expected() == 10_000
        assert list(rows) == [(i + 1, {"text": f"row {i}"}) for i in range(10_000)]


def test_a_damaged_row_group_is_a_clear_error(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {i}" for i in range(10_000)]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1_000, compression="zstd")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:600] = b"\xff" * 596
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet.*cannot be read as Parquet"):
        read(tmp_path / "a.parquet")


def test_rows_are_read_one_by_one(monkeypatch) -> None:
    """A pipe without an end is answered, and the number of rows in a file is foreseen."""

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:
            buffer[:] = (b'"a"\n' * len(buffer))[: len(buffer)]
            return len(buffer)

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    with open_rows("-") as rows:
        some: Iterator[tuple[int, Row]] = iter(rows)
        assert [next(some) for _ in range(3)] == [(1, "a"), (2, "a"), (3, "a")]
        assert rows.expected() == 0


def test_how_many_rows_there_will_be(write) -> None:
    with open_rows(str(write("a.jsonl", ["some text"] * 30_000))) as rows:
        iterator = iter(rows)
        assert rows.expected() == 0
        for _ in range(15_000):
            next(iterator)
        assert 27_000 < rows.expected() < 33_000
