"""Bars on a terminal: how far each stage is, how fast it goes, and how long it will still take."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

if TYPE_CHECKING:
    from taskheads.training.joint.course import Course

# Tasks whose losses fit into a line.
_LOSSES = 6
# What a stage counts. The numbers of a stage that is not here stand alone.
UNITS = {"reading": "tokens", "solving": "tasks", "predict": "rows"}


class Bars:
    """A bar for each stage, on stderr, in the order in which the stages begin."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            _Line(counted),
            _Line(pace),
            _Line(left),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._stages: dict[str, int] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def report(self, stage: str, done: int, total: int, note: str = "") -> None:
        """`done` of `total`; a total of 0 is not known. `note` stands at the end of the line."""
        if stage not in self._stages:
            self._stages[stage] = self._progress.add_task(stage, total=None, note="")
        self._progress.update(self._stages[stage], completed=done, total=total or None, note=note)  # type: ignore[arg-type]

    def watch(self, run: str, course: Course) -> None:
        """A training run: its steps, and at the end of the line its speed and losses."""
        stage = f"tuning {run}"
        UNITS.setdefault(stage, "steps")
        losses = [f"{task} {values[-1][1]:.3g}" for task, values in course.losses.items()]
        shown = ", ".join(losses[:_LOSSES]) + (", …" if len(losses) > _LOSSES else "")
        self.report(stage, course.step, course.planned, f"{course.rates[-1][1]:,.0f} tokens/s; loss {shown}")


class _Line(ProgressColumn):
    """A column whose text a function tells from the stage."""

    def __init__(self, tell: Callable[[Task], str]) -> None:
        super().__init__()
        self._tell = tell

    def render(self, task: Task) -> Text:
        return Text(self._tell(task), justify="right")


def counted(task: Task) -> str:
    """ "1,024 of 15,000 rows"."""
    counted = f"{task.completed:,.0f} of {task.total:,.0f}" if task.total else f"{task.completed:,.0f}"
    return f"{counted} {UNITS.get(task.description, '')}".rstrip()


def pace(task: Task) -> str:
    """ "312 rows/s", or "0.4 tasks/s"."""
    speed = task.finished_speed or task.speed
    if not speed:
        return ""
    number = f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"
    return f"{number} {UNITS.get(task.description, '')}".rstrip() + "/s"


def left(task: Task) -> str:
    """ "1:05 to go", and once it is done the time it took."""
    if task.finished:
        return _clock(task.finished_time or 0)
    return "" if task.time_remaining is None else f"{_clock(task.time_remaining)} to go"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
