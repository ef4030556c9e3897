"""Scores and gains of all tasks with their intervals, a line for each task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from taskheads.report.page.numbers import decimal, signed
from taskheads.report.page.outcomes import Measured, Outcome
from taskheads.report.page.svg import Axis, element, line, picture, text

_WIDTH, _LEFT, _RIGHT, _ROW, _TOP = 720, 168, 700, 34, 8
_LONGEST_NAME = 22


@dataclass(frozen=True)
class Plots:
    """Tasks that share an axis: what it measures, their scores, and their gains where a task has one."""

    axis: str
    scores: Markup
    gains: Markup | None


def interval_plots(tasks: Sequence[Outcome]) -> list[Plots]:
    """The plots of all tasks with scores, shares of 1 first, then each other metric."""
    shown = sorted(
        (task for task in tasks if task.scores), key=lambda task: (task.axis != "score", task.axis)
    )
    grouped = [(axis, list(group)) for axis, group in groupby(shown, key=lambda task: task.axis)]
    return [Plots(axis, _score_plot(axis, group), _gain_plot(group)) for axis, group in grouped]


def _gain_plot(tasks: Sequence[Outcome]) -> Markup | None:
    """By how much the kept answers are better than the frozen head's, around zero."""
    shown = [(task, task.gain) for task in tasks if task.gain is not None]
    if not shown:
        return None
    ends = [end for _, gain in shown for end in (*gain.ends, gain.value)]
    widest = max(*map(abs, ends), 0.005) * 1.05
    # Always some room on either side of zero, and no more than there is to show.
    axis = Axis(min(-widest / 8, min(ends) * 1.05), max(widest / 8, max(ends) * 1.05), _LEFT, _RIGHT)
    rows: list[Markup] = []
    for at, (task, gain) in enumerate(shown):
        y = _middle(at)
        rows += [
            _name(task, y),
            line(axis(gain.ends[0]), y, axis(gain.ends[1]), y, f"whisker {task.verdict}"),
            element(
                "circle",
                element("title", f"{task.name}: {_in_words(gain, signed)}"),
                cx=axis(gain.value),
                cy=y,
                r=5,
                class_=f"dot {task.verdict}",
            ),
        ]
    zero = line(axis(0), _TOP, axis(0), _bottom(len(shown)), "zero")
    label = "Gain over the frozen head: " + "; ".join(
        f"{task.name} {signed(gain.value)}" for task, gain in shown
    )
    return _framed(axis, len(shown), [zero, *rows], label, signed)


def _score_plot(name: str, tasks: Sequence[Outcome]) -> Markup:
    ends = [end for task in tasks for found in task.scores.values() for end in (*found.ends, found.value)]
    low, high = min(ends), max(ends)
    low, high = (min(0.0, low), 1.0) if name == "score" else (min(0.0, low), high * 1.05 or 1.0)
    axis = Axis(low, high, _LEFT, _RIGHT)
    rows: list[Markup] = []
    for at, task in enumerate(tasks):
        y = _middle(at)
        rows.append(_name(task, y))
        rows += _marks(task, axis, y)
    label = f"{name.capitalize()} of each task: " + "; ".join(
        f"{task.name} {_in_words(task.final, decimal) if task.final else 'unknown'}" for task in tasks
    )
    return _framed(axis, len(tasks), rows, label, lambda value: f"{value:g}".replace("-", "−"))


def _marks(task: Outcome, axis: Axis, y: float) -> list[Markup]:
    """Majority, frozen, tuned alone, and what was kept; the last two lines slightly apart."""
    marks: list[Markup] = []
    if majority := task.scores.get("majority"):
        x = axis(majority.value)
        marks.append(line(x, y - 8, x, y + 8, "majority"))
    if frozen := task.scores.get("frozen"):
        marks += _dot("frozen alone", frozen, axis, y - 6, "before")
    if alone := task.scores.get("alone"):
        x = axis(alone.value)
        diamond = f"M{x:.1f} {y - 5:.1f}l5 5-5 5-5-5z"
        title = element("title", f"tuned alone: {_in_words(alone, decimal)}")
        marks.append(element("path", title, d=diamond, class_="alone"))
    if task.final:
        marks += _dot(f"kept ({task.kept})", task.final, axis, y + 6, "after")
    return marks


def _dot(who: str, found: Measured, axis: Axis, y: float, class_: str) -> list[Markup]:
    title = element("title", f"{who}: {_in_words(found, decimal)}")
    return [
        line(axis(found.ends[0]), y, axis(found.ends[1]), y, f"whisker {class_}"),
        element("circle", title, cx=axis(found.value), cy=y, r=4.5, class_=f"dot {class_}"),
    ]


def _framed(
    axis: Axis, count: int, rows: list[Markup], label: str, of_tick: Callable[[float], str]
) -> Markup:
    bottom = _bottom(count)
    ticks: list[Markup] = []
    for value in axis.ticks(6):
        x = axis(value)
        ticks += [
            line(x, _TOP, x, bottom, "grid"),
            text(x, bottom + 16, of_tick(value), "tick", "middle"),
        ]
    return picture(_WIDTH, bottom + 24, *ticks, *rows, label=label, class_="wide")


def _name(task: Outcome, y: float) -> Markup:
    whole = task.name
    cut = whole if len(whole) <= _LONGEST_NAME else whole[: _LONGEST_NAME - 1] + "…"
    return text(_LEFT - 14, y + 4, cut, "name", "end")


def _middle(at: int) -> float:
    return _TOP + _ROW * (at + 0.5)


def _bottom(count: int) -> float:
    return _TOP + _ROW * count


def _in_words(found: Measured, number: Callable[[object], str]) -> str:
    if found.low is None:
        return number(found.value)
    return f"{number(found.value)}, 95 % {number(found.low)} to {number(found.high)}"
