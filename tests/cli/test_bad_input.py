"""Bad input through the command line: one line that says what and where, exit code 2, nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

Files = dict[str, Any]


class Case(NamedTuple):
    """Files to write, the one to hand over, and what the message must name."""

    files: Files
    source: str
    names: tuple[str, ...]


def rows(n: int = 60, **changed: Any) -> list[dict[str, Any]]:
    """Rows of a text and a mood; `row_5={...}` changes the row of that number."""
    made = [{"text": f"this is text number {i} and no other", "mood": "xyz"[i % 3]} for i in range(1, n + 1)]
    for name, change in changed.items():
        made[int(name.removeprefix("row_")) - 1].update(change)
    return made


def scores(row: int, value: str) -> str:
    lines = [json.dumps({"text": f"the text of row {i}", "score": i / 7}) for i in range(1, 61)]
    lines[row - 1] = json.dumps({"text": "odd"})[:-1] + f', "score": {value}}}'
    return "\n".join(lines)


def broken(row: int) -> str:
    lines = [json.dumps(row) for row in rows(1000)]
    lines[row - 1] = lines[row - 1][:-5]
    return "\n".join(lines)


def tagged() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {"tokens": ["in", "Rome", str(i)], "tags": ["O", "B-place", "O"]} for i in range(30)
    ]
    made[11]["tags"] = ["O", "B-place"]
    return made


CASES = {
    "an empty file": Case({"a.jsonl": ""}, "a.jsonl", ("a.jsonl", "empty")),
    "a header and no rows": Case({"a.csv": "text,mood\n"}, "a.csv", ("a.csv", "no rows")),
    "a missing column": Case(
        {"a.jsonl": rows(), "s.yaml": "tasks: {m: {data: a.jsonl, label: moood}}"},
        "s.yaml",
        ("a.jsonl", "column 'moood'", "did you mean 'mood'", "'text', 'mood'"),
    ),
    "a label seen only in test": Case(
        {"d/train.jsonl": rows(), "d/test.jsonl": rows(20, row_7={"mood": "new"})},
        "d",
        ("test.jsonl", "row 7", "column 'mood'", "value 'new'", "never occurs in train"),
    ),
    "one class only": Case(
        {
            "a.jsonl": [row | {"mood": "x"} for row in rows()],
            "s.yaml": "tasks: {m: {data: a.jsonl, label: mood}}",
        },
        "s.yaml",
        ("a.jsonl", "column 'mood'", "value 'x'", "nothing to learn"),
    ),
    "mixed types in a column": Case(
        {"a.jsonl": rows(row_18={"mood": 3})}, "a.jsonl", ("a.jsonl", "row 18", "column 'mood'", "value 3")
    ),
    "tags and tokens of different length": Case(
        {"a.jsonl": tagged()}, "a.jsonl", ("a.jsonl", "row 12", "column 'tags'", "2 tags for 3 words")
    ),
    "a target that is NaN": Case(
        {"a.jsonl": scores(5, "NaN")}, "a.jsonl", ("a.jsonl", "row 5", "column 'score'", "value nan")
    ),
    "a target that is infinite": Case(
        {"a.jsonl": scores(6, "-Infinity")}, "a.jsonl", ("a.jsonl", "row 6", "column 'score'", "value -inf")
    ),
    "broken JSON on line 700": Case(
        {"a.jsonl": broken(700)}, "a.jsonl", ("a.jsonl", "row 700", "broken JSON")
    ),
    "a wrong encoding": Case(
        {"a.csv": "text,mood\nnaïve,x\n".encode("latin-1")}, "a.csv", ("a.csv", "row 2", "0xef", "UTF-8")
    ),
    "duplicate task names": Case(
        {"s.yaml": "tasks:\n  m: {data: a.jsonl}\n  n: {data: a.jsonl}\n  m: {data: a.jsonl}\n"},
        "s.yaml",
        ("s.yaml", "line 4", "task 'm' is here twice", "line 2"),
    ),
    "a text of more than a million characters": Case(
        {"a.jsonl": rows(row_9={"text": "a " * 500_001})},
        "a.jsonl",
        ("a.jsonl", "row 9", "column 'text'", "1,000,002"),
    ),
    "a row without text": Case(
        {"a.jsonl": rows(row_9={"text": " "})},
        "a.jsonl",
        ("a.jsonl", "row 9", "column 'text'", "without text"),
    ),
    "a typo in the YAML": Case(
        {"a.jsonl": rows(), "s.yaml": "tasks:\n  m:\n    data: a.jsonl\n    lable: mood\n"},
        "s.yaml",
        ("s.yaml", "line 4", "'lable'", "did you mean 'label'"),
    ),
    "broken YAML": Case({"s.yaml": "tasks: [\n"}, "s.yaml", ("s.yaml", "line", "broken YAML")),
    "a file that is not there": Case(
        {"moods.csv": "a"}, "mods.csv", ("mods.csv", "did you mean 'moods.csv'")
    ),
}


@pytest.mark.parametrize("command", ["check", "fit"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_data_is_one_line(case: Case, command: str, run, write, tmp_path: Path) -> None:
    for name, content in case.files.items():
        write(name, content)
    before = everything(tmp_path)
    out = ["--out", tmp_path / "runs" / "m"] if command == "fit" else []
    done = run(command, tmp_path / case.source, *out)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert len(done.err) < 700
    for name in case.names:
        assert name in done.err
    assert everything(tmp_path) == before


def test_two_files_of_one_name(run, write) -> None:
    first, second = write("a/moods.jsonl", rows()), write("b/moods.jsonl", rows())
    done = run("check", first, second)
    assert done.code == 2
    assert "two tasks would be called 'moods'" in done.err


def test_a_suite_beside_other_files(run, write) -> None:
    done = run("check", write("a.jsonl", rows()), write("s.yaml", "tasks: {m: {data: a.jsonl}}"))
    assert done.code == 2
    assert "s.yaml: a suite file is given alone" in done.err


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))
