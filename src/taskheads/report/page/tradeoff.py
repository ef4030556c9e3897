"""A comparison as a picture: quality against what it costs, and the front that nothing cheaper passes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from taskheads.compare.front import idle
from taskheads.report.page.numbers import decimal, duration
from taskheads.report.page.svg import Axis, element, line, polyline, text

_WIDTH, _HEIGHT, _GAP = 430, 320, 84
_TOP, _LEFT, _BOTTOM = 64, 62, 74
# Where no power of ten is: what costs nothing has a place of its own, left of the others.
_NOTHING = 30
_LETTER, _LINE = 6.2, 13.0
_TICKS = {
    "parameters": [10.0**power for power in range(13)],
    "seconds": [0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 36000, 86400],
}
_STYLE = """
svg { font: 11px system-ui, "Segoe UI", Roboto, Arial, sans-serif; background: #fdfdfc }
text { fill: #1c2226 } .title { font-size: 14px; font-weight: 600 } .tick, .note { fill: #5b6770 }
.grid { stroke: #e6e9eb } .frame { stroke: #b9c0c5; fill: none } .front { stroke: #0b66a8; fill: none;
stroke-width: 1.5; stroke-dasharray: 5 3 } .whisker { stroke: #9fb4c4; stroke-width: 1.5 }
.seen { fill: #0b66a8 } .best { fill: #b8480b } .unseen { fill: #fdfdfc; stroke: #8d979e; stroke-width: 1.3 }
.name { paint-order: stroke; stroke: #fdfdfc; stroke-width: 3px; stroke-linejoin: round }
.name.dim { fill: #7a858c } .name.top { font-weight: 600 }
"""

Way = Mapping[str, Any]


class _Mark(NamedTuple):
    """A way in a panel: where its point is, and the ends of its whisker."""

    way: Way
    x: float
    y: float
    low: float
    high: float


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def tradeoff(found: Mapping[str, Any]) -> str:
    """An SVG file of a comparison's JSON: the mean score against trained parameters, and against seconds.

    Full points are scores on test with their intervals; hollow ones ended earlier, and are dev scores on
    fewer rows. The broken line is the front of the full ones. Ways that left every task its frozen head have
    no point: it would be that of "frozen".
    """
    found = {**found, "ways": [way for way in found["ways"] if not idle(way)]}
    ways = found["ways"]
    panels = [
        ("parameters", "trained parameters beside the heads", _count),
        ("seconds", "time to fit", _time),
    ]
    whole = _LEFT + len(panels) * (_WIDTH + _GAP) - _GAP + 24, _TOP + _HEIGHT + _BOTTOM
    drawn: list[Markup] = []
    for at, (cost, title, shown) in enumerate(panels):
        drawn += _panel(found, cost, title, shown, _LEFT + at * (_WIDTH + _GAP))
    names = ", ".join(way["name"] for way in ways if way["key"] in found["front"])
    return str(
        element(
            "svg",
            element("style", Markup(_STYLE)),
            text(_LEFT, 24, "Quality, and what it costs", "title"),
            *_legend(_LEFT, 44),
            *drawn,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {whole[0]} {whole[1]}",
            width=whole[0],
            height=whole[1],
            role="img",
            aria_label=f"Mean score against cost. On the front: {names}.",
        )
    )


def _legend(x: float, y: float) -> Iterator[Markup]:
    parts = [("best", "recommended"), ("seen", "on test"), ("unseen", "ended earlier: dev, fewer rows")]
    for class_, words in parts:
        yield element("circle", cx=x + 5, cy=y - 4, r=4.5, class_=class_)
        yield text(x + 15, y, words, "note")
        x += 15 + 5.4 * len(words) + 34
    yield line(x, y - 4, x + 22, y - 4, "front")
    yield text(x + 28, y, "nothing cheaper is better", "note")


def _panel(found: Mapping[str, Any], cost: str, title: str, shown: Any, left: float) -> Iterator[Markup]:
    ways = found["ways"]
    across, up = _across(ways, cost, left), _up(ways)
    marks = [_mark(way, across(way[cost]), up) for way in ways]
    right, bottom = left + _WIDTH, _TOP + _HEIGHT
    for value in up.ticks(5):
        yield line(left, up(value), right, up(value), "grid")
        yield text(left - 7, up(value) + 4, decimal(value, 2 if up.high - up.low > 0.1 else 3), "tick", "end")
    for value in _marked(across, _TICKS[cost], left):
        yield line(across(value), bottom, across(value), bottom + 5, "frame")
        yield text(across(value), bottom + 18, shown(value), "tick", "middle")
    yield element("rect", x=left, y=_TOP, width=_WIDTH, height=_HEIGHT, class_="frame")
    yield text(left + _WIDTH / 2, bottom + 40, title, "note", "middle")
    if left == _LEFT:
        middle = _TOP + _HEIGHT / 2
        turned = f"rotate(-90 16 {middle})"
        words = "mean score of all tasks"
        yield element("text", words, x=16, y=middle, transform=turned, class_="note", text_anchor="middle")
    yield from _front(marks, right)
    for mark in marks:
        if mark.low != mark.high:
            yield line(mark.x, mark.low, mark.x, mark.high, "whisker")
    for mark in marks:
        class_ = "best" if mark.way["key"] == found["recommended"] else "seen"
        said = element("title", f"{mark.way['name']}: {decimal(_score(mark.way))}, {shown(mark.way[cost])}")
        yield element(
            "circle", said, cx=mark.x, cy=mark.y, r=4.5, class_=class_ if mark.way["test"] else "unseen"
        )
    yield from _names(marks, found["recommended"], left, right)


class _Powers(Axis):
    """A logarithmic axis, with a place for nothing left of it."""

    def __call__(self, value: float) -> float:
        return self.start - _NOTHING if value <= 0 else super().__call__(math.log10(value))


def _across(ways: Sequence[Way], cost: str, left: float) -> _Powers:
    sizes = [math.log10(way[cost]) for way in ways if way[cost] > 0] or [0.0]
    start = left + (2 * _NOTHING if any(way[cost] <= 0 for way in ways) else 0)
    return _Powers(min(sizes) - 0.15, max(sizes) + 0.25, start, left + _WIDTH)


def _marked(axis: _Powers, values: Sequence[float], left: float) -> list[float]:
    """Those of the values that are within the axis, every so many, and nothing where that has a place."""
    within = [value for value in values if axis.low <= math.log10(value) <= axis.high]
    step = max(1, math.ceil(len(within) / 6))
    return [*([0.0] if axis.start > left else []), *within[::step]]


def _up(ways: Sequence[Way]) -> Axis:
    ends = [end for way in ways for end in (*_ends(way), _score(way))]
    margin = (max(ends) - min(ends)) * 0.08 or 0.02
    return Axis(min(ends) - margin, max(ends) + margin, _TOP + _HEIGHT, _TOP)


def _mark(way: Way, x: float, up: Axis) -> _Mark:
    low, high = _ends(way)
    return _Mark(way, x, up(_score(way)), up(low), up(high))


def _front(marks: Sequence[_Mark], right: float) -> Iterator[Markup]:
    """Steps along the best that each cost has bought on test."""
    points: list[tuple[float, float]] = []
    for mark in sorted((mark for mark in marks if mark.way["test"]), key=lambda mark: (mark.x, mark.y)):
        if not points:
            points.append((mark.x, mark.y))
        elif mark.y < points[-1][1]:
            points += [(mark.x, points[-1][1]), (mark.x, mark.y)]
    if points:
        yield polyline([*points, (right, points[-1][1])], "front")


def _names(marks: Sequence[_Mark], best: str, left: float, right: float) -> Iterator[Markup]:
    """A name beside each point: where there is room, those on test first; without room, none."""
    taken = [_Box(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in marks]
    for mark in sorted(marks, key=lambda mark: (mark.way["key"] != best, not mark.way["test"])):
        name = mark.way["name"]
        width = _LETTER * len(name)
        for x, y in _places(mark, width):
            box = _Box(x, y - 10, x + width, y + 2)
            inside = left < box.left and box.right < right and box.top > _TOP and box.bottom < _TOP + _HEIGHT
            if inside and not any(box.meets(other) for other in taken):
                taken.append(box)
                class_ = "name top" if mark.way["key"] == best else "name" if mark.way["test"] else "name dim"
                yield text(x, y, name, class_)
                break


def _places(mark: _Mark, width: float) -> Iterator[tuple[float, float]]:
    """Where a name may begin: right of its point or left, slightly above or below, then farther away."""
    for shift in (-0.6 * _LINE, 0.6 * _LINE, 0.0, -_LINE, _LINE, -2 * _LINE, 2 * _LINE):
        yield mark.x + 8, mark.y + 4 + shift
        yield mark.x - 8 - width, mark.y + 4 + shift


def _score(way: Way) -> float:
    return way["test"]["mean"]["value"] if way["test"] else way["quality"]


def _ends(way: Way) -> tuple[float, float]:
    if not way["test"]:
        return way["quality"], way["quality"]
    return way["test"]["mean"]["low"], way["test"]["mean"]["high"]


def _time(value: float) -> str:
    """As `duration`, whole minutes and hours without what is 0."""
    return re.sub(r"(?<=min) 0 s$|(?<=h) 0 min$", "", duration(value))


def _count(value: float) -> str:
    """10k, 1M: a power of ten in the fewest letters."""
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= power:
            return f"{value / power:.3g}{letter}"
    return f"{value:.3g}"
