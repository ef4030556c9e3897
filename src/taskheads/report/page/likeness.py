"""How alike tasks are, as a table of shades in the order of the suggested groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from taskheads.report.page.numbers import decimal, known
from taskheads.report.page.svg import element, picture, text

_CELL, _LETTER, _HEAD = 42, 8, 6
_LONGEST_NAME = 20


def groups_of(similarity: Mapping[str, Any] | None) -> list[list[str]]:
    """The suggested groups by the tasks' names, whether the report gives names or positions."""
    found = similarity or {}
    names = found.get("tasks") or []
    return [
        [str(names[each]) if isinstance(each, int) else str(each) for each in group]
        for group in found.get("groups") or ()
    ]


def likeness(similarity: Mapping[str, Any] | None, which: str) -> Markup | None:
    """The matrix `similarity[which]` between tasks: above 0 in one colour, below in the other."""
    found = similarity or {}
    names, values = [str(name) for name in found.get("tasks") or ()], found.get(which)
    if not names or not values:
        return None
    places = {name: at for at, name in enumerate(names)}
    groups = [[places[name] for name in group if name in places] for group in groups_of(found)]
    order = [at for group in groups for at in group]
    order += [at for at in range(len(names)) if at not in order]
    margin = _LETTER * min(max(map(len, names)), _LONGEST_NAME) + 10
    size = _CELL * len(names)
    parts: list[Markup] = []
    for row, i in enumerate(order):
        y = margin + _CELL * row
        parts += [
            text(margin - 8, y + _CELL / 2 + 4, _short(names[i]), "name", "end"),
            element(
                "text",
                _short(names[i]),
                class_="name",
                transform=f"translate({y + _CELL // 2 + 4} {margin - 8}) rotate(-90)",
            ),
        ]
        parts += [
            part
            for column, j in enumerate(order)
            for part in _cell(margin + _CELL * column, y, names[i], names[j], values[i][j])
        ]
    parts += _frames(groups, margin)
    return picture(
        margin + size + _HEAD,
        margin + size + _HEAD,
        *parts,
        label=f"Similarity of {len(names)} tasks by {which}",
        class_="likeness",
    )


def _cell(x: float, y: float, first: str, second: str, value: object) -> list[Markup]:
    strength = min(abs(value), 1.0) if known(value) else 0.0
    class_ = "own" if first == second else "unlike" if known(value) and value < 0 else "alike"
    title = element("title", f"{first}, {second}: {decimal(value)}")
    shown = round(value, 2) + 0.0 if known(value) else value  # what is -0.00 is shown as 0.00
    dark = class_ != "own" and strength > 0.75
    return [
        element(
            "rect",
            title,
            x=x + 1,
            y=y + 1,
            width=_CELL - 2,
            height=_CELL - 2,
            class_=class_,
            fill_opacity=round(strength, 2),
        ),
        text(x + _CELL / 2, y + _CELL / 2 + 4, decimal(shown, 2), "on-dark" if dark else "", "middle"),
    ]


def _frames(groups: Sequence[Sequence[int]], margin: float) -> list[Markup]:
    frames, start = [], 0
    for group in groups if len(groups) > 1 else ():
        at, size = margin + _CELL * start, _CELL * len(group)
        frames.append(element("rect", x=at, y=at, width=size, height=size, class_="frame"))
        start += len(group)
    return frames


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
