"""Progress is drawn for people only; what to type next can be typed."""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path

import pytest
from rich.progress import Progress

from taskheads.cli.bars import counted, left, pace
from taskheads.cli.next_steps import next_steps, program
from taskheads.cli.progress import progress
from taskheads.tasks.task import Task


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def task(name: str, *inputs: str) -> Task:
    return Task(name, "pair" if len(inputs) == 2 else "classify", inputs, "label", "accuracy", ("a", "b"))


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
    assert "1,500 of 1,500 tokens" in shown
    assert "fitting" in shown


def timed(stage: str, updates: list[tuple[float, int]], total: int) -> Progress:
    """A stage that had done so much at these times."""
    clock = [0.0]
    shown = Progress(get_time=lambda: clock[0], auto_refresh=False)
    place = shown.add_task(stage, total=total)
    for clock[0], done in updates:
        shown.update(place, completed=done)
    return shown


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ("predict", ("4,096 of 10,000 rows", "2,048 rows/s", "0:03 to go")),
        ("reading", ("4,096 of 10,000 tokens", "2,048 tokens/s", "0:03 to go")),
        ("solving", ("4,096 of 10,000 tasks", "2,048 tasks/s", "0:03 to go")),
        ("another", ("4,096 of 10,000", "2,048/s", "0:03 to go")),
    ],
)
def test_a_bar_says_what_it_counts_how_fast_and_how_long(stage: str, told: tuple[str, ...]) -> None:
    (task,) = timed(stage, [(1.0, 2048), (2.0, 4096)], total=10_000).tasks
    assert (counted(task), pace(task), left(task)) == told


def test_rows_answered_by_the_run_before_do_not_count_as_speed() -> None:
    (task,) = timed("predict", [(1.0, 900_000), (2.0, 900_100), (3.0, 900_200)], total=1_000_000).tasks
    assert pace(task) == "100 rows/s"


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
