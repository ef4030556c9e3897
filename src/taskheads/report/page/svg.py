"""Pictures as text: elements whose every text is escaped, and the axis of a plot."""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup, escape


def element(name: str, *children: object, **attributes: object) -> Markup:
    """One SVG element: `class_` stands for class, `_` in a name for `-`; None leaves an attribute out."""
    pairs = "".join(
        f' {_name(key)}="{escape(_value(value))}"' for key, value in attributes.items() if value is not None
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{pairs}>{inside}</{name}>")


def picture(width: float, height: float, *children: object, label: str, class_: str | None = None) -> Markup:
    """A drawing that scales with the room it is given; `label` is what a screen reader says of it."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        width=width,
        role="img",
        aria_label=label,
        class_=class_,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("path", d=f"M{_value(x1)} {_value(y1)}L{_value(x2)} {_value(y2)}", class_=class_)


def text(x: float, y: float, words: object, class_: str = "", anchor: str | None = None) -> Markup:
    return element("text", words, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def polyline(points: list[tuple[float, float]], class_: str) -> Markup:
    path = "L".join(f"{_value(x)} {_value(y)}" for x, y in points)
    return element("path", d=f"M{path}", class_=class_)


@dataclass(frozen=True)
class Axis:
    """The map from values between `low` and `high` to pixels between `start` and `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        return self.start + (self.stop - self.start) * ((value - self.low) / span if span else 0.5)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values within the axis: steps of 1, 2 or 5 times a power of ten, about so many."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        power = 10 ** math.floor(math.log10(span / about))
        step = next(power * each for each in (1, 2, 5, 10) if power * each >= span / about * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(at * step, 12) for at in range(first, last + 1)]


def _name(key: str) -> str:
    return key if key == "viewBox" else key.rstrip("_").replace("_", "-")


def _value(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return value
