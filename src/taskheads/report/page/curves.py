"""How training went: a small chart for each task, all of one size, so that they are read side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from taskheads.report.page.numbers import decimal, known, short
from taskheads.report.page.svg import Axis, element, line, picture, polyline, text

# Of every small chart; where its lines end on the right is its own.
WIDTH, HEIGHT, LEFT, BOTTOM = 260, 132, 44, 104
_RIGHT, _TOP = 250, 10
# More points than a small chart has pixels for are averaged.
_POINTS = 120

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """A title, a curve, and the last value in words."""

    title: str
    drawing: Markup
    last: str


def charts(curves: Mapping[str, Any] | None, reference: Mapping[str, float] | None = None) -> list[Chart]:
    """A chart for each named curve with a point; `reference` draws a level to reach beside those names."""
    reference = reference or {}
    found = []
    for name, points in (curves or {}).items():
        if readable := points_of(points):
            found.append(Chart(name, chart(name, readable, reference.get(name)), short(readable[-1][1])))
    return found


def chart(name: str, points: Sequence[Point], reference: float | None = None) -> Markup:
    """A curve of (step, value) points."""
    shown = thinned(points)
    values = [value for _, value in shown] + ([] if reference is None else [reference])
    low, high = min(values), max(values)
    across = Axis(shown[0][0], shown[-1][0], LEFT, _RIGHT)
    up, parts = upwards(low, high, _RIGHT)
    for step in across.ticks(3):
        parts.append(text(across(step), BOTTOM + 18, short(step), "tick", "middle"))
    if reference is not None:
        level = line(LEFT, up(reference), _RIGHT, up(reference), "reference")
        parts.append(element("g", element("title", f"frozen head: {decimal(reference)}"), level))
    drawn = [(across(step), up(value)) for step, value in shown]
    if len(drawn) > 1:
        parts.append(polyline(drawn, "curve"))
    if len(drawn) <= 24:
        parts += [
            element(
                "circle",
                element("title", f"step {short(step)}: {short(value)}"),
                cx=x,
                cy=y,
                r=3,
                class_="point",
            )
            for (x, y), (step, value) in zip(drawn, shown, strict=True)
        ]
    label = f"{name}: from {short(points[0][1])} to {short(points[-1][1])} at step {short(points[-1][0])}"
    return picture(WIDTH, HEIGHT, *parts, label=label, class_="small")


def upwards(low: float, high: float, right: float) -> tuple[Axis, list[Markup]]:
    """The vertical axis of a small chart that is `right` wide, some room about its values, and its lines."""
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    up = Axis(low - margin, high + margin, BOTTOM, _TOP)
    parts: list[Markup] = []
    for value in up.ticks(3):
        parts += [
            line(LEFT, up(value), right, up(value), "grid"),
            text(LEFT - 6, up(value) + 4, short(value), "tick", "end"),
        ]
    return up, parts


def points_of(found: Any) -> list[Point]:
    """The points of a curve that are finite numbers."""
    return [(step, value) for step, value in found or () if known(step) and known(value)]


def thinned(points: Sequence[Point], most: int = _POINTS) -> list[Point]:
    """At most `most` points: means of equally many neighbours."""
    size = -(-len(points) // most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(step for step, _ in group) / len(group), sum(value for _, value in group) / len(group))
        for group in groups
    ]
