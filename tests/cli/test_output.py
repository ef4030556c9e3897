"""Files are whole or not there; progress is drawn for people only; what to type next can be typed."""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path

import pytest

from taskheads.cli.next_steps import next_steps, program
from taskheads.cli.output import whole_file
from taskheads.cli.progress import progress
from taskheads.tasks.task import Task


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def task(name: str, *inputs: str) -> Task:
    return Task(name, "pair" if len(inputs) == 2 else "classify", inputs, "label", "accuracy", ("a", "b"))


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    with whole_file(path) as file:
        file.write("é\n")
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()


def test_a_file_that_is_not_finished_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), whole_file(path) as file:
        file.writelines(["new", "half a character: \ud83d"])
    assert [p.name for p in tmp_path.iterdir()] == ["answers.jsonl"]
    assert path.read_text() == "old"


def test_nobody_watches_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress() as report:
        assert report is None


def test_quiet_is_quiet_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress(quiet=True) as report:
        assert report is None
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_terminal_shows_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress() as report:
        assert report is not None
        for done in range(0, 1501, 500):
            report("reading", done, 1500)
        report("fitting", 3, 0)
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "reading" in shown
    assert "1,500 of 1,500" in shown
    assert "fitting" in shown


def test_what_to_type_next_fits_the_model() -> None:
    folder = Path("my runs/m")
    steps = [shlex.split(step) for step in next_steps(folder, [task("a", "text"), task("b c", "x", "y")])]
    assert all("my runs/m" in step for step in steps)
    assert steps[-1][-2:] == ["my runs/m", "b c"]
    assert not any("remove" in step for step in next_steps(folder, [task("a", "text")]))
    assert '{"x": "a text", "y": "a text"}' in shlex.split(next_steps(folder, [task("b", "x", "y")])[0])


def test_the_program_is_called_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = tmp_path / "taskheads"
    called.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(called)])
    monkeypatch.setenv("PATH", "/usr/bin")
    assert program() == str(called)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == "taskheads"
    monkeypatch.setattr(sys, "argv", ["/somewhere/taskheads/__main__.py"])
    assert program() == "python -m taskheads"
