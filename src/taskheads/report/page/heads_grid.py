"""Layers × attention heads as a heat map that stays small: a path for each shade, not an element a cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from markupsafe import Markup

from taskheads.report.page.svg import element, text

# Cells in pixels, of up to 16 heads and of more; room for the numbers of layers and heads.
_LARGE, _SMALL, _MANY = 20, 12, 16
_LEFT, _TOP = 24, 18
_SHADES = 20
# From this shade on a letter needs the colour that stands on it.
_DARK = 0.75


@dataclass(frozen=True)
class Grid:
    """What is drawn: values [layers, heads] between 0 and 1 (NaN for an attention head that is not there),
    what a screen reader says of it, what stands in the cells, and the class of their colour."""

    values: torch.Tensor
    label: str
    letters: Sequence[Sequence[str]] = ()
    class_: str = "share"


def grid(drawn: Grid) -> Markup:
    """The picture, which the page's script reads by its `data-` attributes: layer 0 stands above."""
    layers, heads = drawn.values.shape
    cell = _LARGE if max(layers, heads) <= _MANY else _SMALL
    width, height = _LEFT + heads * cell + 1, _TOP + layers * cell + 1
    parts: list[Markup] = []
    for shade, cells in sorted(_by_shade(drawn.values).items()):
        path = "".join(f"M{head} {layer}h1v1h-1z" for layer, head in cells)
        parts.append(element("path", d=path, class_=drawn.class_, fill_opacity=round(shade / _SHADES, 2)))
    lines = "".join(f"M0 {layer}h{heads}" for layer in range(layers + 1))
    lines += "".join(f"M{head} 0v{layers}" for head in range(heads + 1))
    parts += [
        element("path", d=lines, class_="lines"),
        *(element("rect", class_=name, width=1, height=1, x=-9, y=-9) for name in ("pick", "spot")),
    ]
    return element(
        "svg",
        element("g", *parts, transform=f"translate({_LEFT} {_TOP}) scale({cell})"),
        *_numbers(layers, heads, cell),
        *_letters(drawn, cell),
        viewBox=f"0 0 {width} {height}",
        width=width,
        class_="map",
        role="img",
        aria_label=drawn.label,
        aria_describedby="reading",
        tabindex=0,
        data_layers=layers,
        data_heads=heads,
        data_cell=cell,
        data_left=_LEFT,
        data_top=_TOP,
    )


def _by_shade(values: torch.Tensor) -> dict[int, list[tuple[int, int]]]:
    """The cells of each shade; those that are not there have none, those near 0 the lightest."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for layer, some in enumerate(values.tolist()):
        for head, value in enumerate(some):
            if value == value:
                found[round(_SHADES * min(max(value, 0.0), 1.0))].append((layer, head))
    return found


def _numbers(layers: int, heads: int, cell: int) -> list[Markup]:
    step = 1 if cell == _LARGE else 4
    down = [
        text(_LEFT - 5, _TOP + (layer + 0.5) * cell + 4, layer, "tick", "end")
        for layer in range(0, layers, step)
    ]
    along = [
        text(_LEFT + (head + 0.5) * cell, _TOP - 5, head, "tick", "middle") for head in range(0, heads, step)
    ]
    return down + along


def _letters(drawn: Grid, cell: int) -> list[Markup]:
    return [
        text(
            _LEFT + (head + 0.5) * cell,
            _TOP + (layer + 0.5) * cell + cell * 0.2,
            letter,
            "letter on-dark" if float(drawn.values[layer, head]) > _DARK else "letter",
            "middle",
        )
        for layer, some in enumerate(drawn.letters)
        for head, letter in enumerate(some)
        if letter
    ]
