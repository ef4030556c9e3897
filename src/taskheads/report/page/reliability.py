"""Confidence beside accuracy, before and after temperature scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from taskheads.report.page.numbers import decimal
from taskheads.report.page.svg import Axis, element, line, picture, polyline, text

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM, _FLOOR = 320, 352, 44, 308, 10, 274, 318


@dataclass(frozen=True)
class Reliability:
    """A diagram, and the calibration errors: rows of (when, with bins of equal width, of equal mass)."""

    drawing: Markup
    errors: list[tuple[str, float | None, float | None]]
    of: str


def reliability(found: Mapping[str, Any] | None) -> Reliability | None:
    """The diagram of `taskheads.model.findings.reliability`."""
    if not found or not (found.get("after") or {}).get("equal_width"):
        return None
    before, after = found.get("before"), found["after"]
    scaled = "after scaling" if before else "as answered"
    errors = [
        (when, _error(of, "equal_width"), _error(of, "equal_mass"))
        for when, of in (("before scaling", before), (scaled, after))
        if of
    ]
    bins = after["equal_width"].get("bins") or []
    earlier = ((before or {}).get("equal_width") or {}).get("bins") or []
    of = found.get("of") or "rows"
    return Reliability(_diagram(earlier, bins, of), errors, of)


def _error(found: Mapping[str, Any], binning: str) -> float | None:
    return (found.get(binning) or {}).get("ece")


def _diagram(before: Sequence[Mapping], after: Sequence[Mapping], of: str) -> Markup:
    across, up = Axis(0.0, 1.0, _LEFT, _RIGHT), Axis(0.0, 1.0, _BOTTOM, _TOP)
    parts = [element("path", d=f"M{_LEFT} {_BOTTOM}L{_RIGHT} {_TOP}", class_="reference")]
    for value in across.ticks(5):
        parts += [
            line(across(value), _TOP, across(value), _BOTTOM, "grid"),
            line(_LEFT, up(value), _RIGHT, up(value), "grid"),
            text(_LEFT - 6, up(value) + 4, f"{value:g}", "tick", "end"),
            text(across(value), _FLOOR + 16, f"{value:g}", "tick", "middle"),
        ]
    most = max((each["count"] for each in after), default=1)
    for each in after:
        height = (_FLOOR - _BOTTOM - 8) * each["count"] / most
        left, right = across(each["low"]) + 1, across(each["high"]) - 1
        title = element("title", f"{each['count']:,} {of} between {each['low']:.2f} and {each['high']:.2f}")
        parts.append(
            element("rect", title, x=left, y=_FLOOR - height, width=right - left, height=height, class_="bar")
        )
    for class_, bins in (("before", before), ("after", after)):
        points = [(across(each["confidence"]), up(each["accuracy"])) for each in bins]
        if len(points) > 1:
            parts.append(polyline(points, f"curve {class_}"))
        for (x, y), each in zip(points, bins, strict=True):
            said = (
                f"confidence {decimal(each['confidence'])}, accuracy {decimal(each['accuracy'])}, "
                f"{each['count']:,} {of}"
            )
            # The area of a dot is the share of the items.
            radius = 2.5 + 4.5 * (each["count"] / most) ** 0.5
            parts.append(
                element("circle", element("title", said), cx=x, cy=y, r=radius, class_=f"dot {class_}")
            )
    parts += [
        text((_LEFT + _RIGHT) / 2, _HEIGHT - 2, "confidence", "axis", "middle"),
        element(
            "text",
            "accuracy",
            class_="axis",
            text_anchor="middle",
            transform=f"translate(12 {(_TOP + _BOTTOM) // 2}) rotate(-90)",
        ),
    ]
    return picture(
        _WIDTH, _HEIGHT, *parts, label="Reliability diagram: accuracy by confidence", class_="square"
    )
