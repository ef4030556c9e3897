"""What each task scores as attention heads go: a small chart for each, all of one size."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from taskheads.attention.levels import Level
from taskheads.report.page.curves import BOTTOM, HEIGHT, LEFT, WIDTH, Chart, upwards
from taskheads.report.page.numbers import decimal
from taskheads.report.page.svg import Axis, element, picture, polyline, text

_RIGHT = 246  # half of the last share's label fits


def level_charts(levels: Sequence[Level]) -> list[Chart]:
    """A chart for each task: its score by the share of attention heads that is left, all of them at the left
    edge, within its 95 % interval."""
    return [Chart(task, _chart(task, levels), found.metric) for task, found in levels[0].scores.items()]


def _chart(task: str, levels: Sequence[Level]) -> Markup:
    found = [(100 * level.keep, level.left, level.scores[task]) for level in levels]
    low, high = min(each.low for *_, each in found), max(each.high for *_, each in found)
    along = Axis(found[0][0], found[-1][0], LEFT, _RIGHT)
    up, parts = upwards(low, high, _RIGHT)
    parts += [text(along(share), BOTTOM + 18, f"{share:.0f} %", "tick", "middle") for share, *_ in found[::2]]
    band = [(along(share), up(score.high)) for share, _, score in found]
    band += [(along(share), up(score.low)) for share, _, score in reversed(found)]
    parts += [
        polyline(band, "band"),
        polyline([(along(share), up(score.value)) for share, _, score in found], "curve"),
    ]
    for share, left, score in found:
        words = f"{share:.0f} %, {left:,} attention heads: {decimal(score.value)}"
        parts.append(
            element(
                "circle",
                element("title", f"{words} ({decimal(score.low)} to {decimal(score.high)})"),
                cx=along(share),
                cy=up(score.value),
                r=3,
                class_="point",
            )
        )
    first, last = found[0], found[-1]
    label = (
        f"{task}: {first[2].metric} from {decimal(first[2].value)} with {first[0]:.0f} % of the attention "
        f"heads to {decimal(last[2].value)} with {last[0]:.0f} %"
    )
    return picture(WIDTH, HEIGHT, *parts, label=label, class_="small")
