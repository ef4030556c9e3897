"""What is taken for what: a matrix which stays readable with hundreds of labels, and the worst confusions.

Labels are put in an order in which those that are confused stand together, so that confusions lie in blocks
along the diagonal. Cells of one shade are one path in units of cells, which keeps large matrices small.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from taskheads.report.page.svg import element

# Labels that a matrix shows at most; up to how many its cells have room for a count and a label beside.
_MOST_LABELS = 300
_ROOMY = 40
_SHADES = 6
# One confusion in a hundred must still be seen.
_FAINTEST = 0.35
# From which shade on a count is printed in the colour of the ground.
_DARK = 4


@dataclass(frozen=True)
class Confused:
    """`count` items of `truth` were answered `answer`: so large a share of all items of `truth`."""

    truth: str
    answer: str
    count: int
    share: float


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix to show.

    Parameters
    ----------
    labels: those shown, in their order. left_out: labels beyond the most that are shown.
    cells: [truth, answer, count] by position in `labels`, what a reader points at.
    totals: items of each label.
    drawing: the cells, a unit each.
    clean: how many of `labels` are never confused.
    """

    labels: list[str]
    left_out: int
    cells: list[list[int]]
    totals: list[int]
    drawing: Markup
    clean: int

    @property
    def fits(self) -> bool:
        """Whether cells are large enough for labels at each row without zooming."""
        return len(self.labels) <= _ROOMY


def matrix(found: Mapping[str, Any] | None, *, ordered: bool = False) -> Matrix | None:
    """The matrix of `taskheads.model.findings.confusion`; `ordered` labels stay in the order they have."""
    if not found or not found.get("labels") or not found.get("cells"):
        return None
    counts = _dense(found)
    order = list(range(len(counts))) if ordered else order_of(counts)
    shown = order[:_MOST_LABELS]
    part = counts[np.ix_(shown, shown)]
    labels = [str(found["labels"][i]) for i in shown]
    truth, answer = part.nonzero()
    mistakes = counts - np.diag(np.diagonal(counts))
    return Matrix(
        labels=labels,
        left_out=len(order) - len(shown),
        cells=[[int(i), int(j), int(part[i, j])] for i, j in zip(truth, answer, strict=True)],
        totals=counts[shown].sum(1).tolist(),
        drawing=_drawing(part, counts[shown].sum(1), labels),
        clean=int(((mistakes.sum(0) + mistakes.sum(1))[shown] == 0).sum()),
    )


def commonest(found: Mapping[str, Any] | None, most: int = 12) -> list[Confused]:
    """The confusions with the highest counts; of equal counts the larger share first."""
    if not found or not found.get("labels"):
        return []
    labels = found["labels"]
    totals: dict[int, int] = defaultdict(int)
    for truth, _, count in found.get("cells") or ():
        totals[truth] += count
    wrong = [
        Confused(str(labels[truth]), str(labels[answer]), count, count / totals[truth])
        for truth, answer, count in found.get("cells") or ()
        if truth != answer
    ]
    return sorted(wrong, key=lambda each: (-each.count, -each.share))[:most]


def order_of(counts: np.ndarray) -> list[int]:
    """The labels so that those confused with one another are neighbours: the leaves of an average-linkage
    tree in their best order (Bar-Joseph, Gifford and Jaakkola 2001), then those that are never confused.

    counts: [C, C]. Of more confused labels than are shown, those with the most confusions are put in order.
    """
    from scipy.cluster.hierarchy import average, leaves_list, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.fill_diagonal(share, 0.0)
    alike = share + share.T
    mistakes = counts.sum(0) + counts.sum(1) - 2 * np.diagonal(counts)
    by_mistakes = np.argsort(-mistakes, kind="stable")
    confused = np.sort(by_mistakes[: min(_MOST_LABELS, int((mistakes > 0).sum()))])
    rest = [int(i) for i in by_mistakes if i not in set(confused.tolist())]
    if len(confused) < 3:
        return [*confused.tolist(), *rest]
    near = alike[np.ix_(confused, confused)]
    distance = 1.0 - near / near.max() if near.max() > 0 else 1.0 - near
    np.fill_diagonal(distance, 0.0)
    condensed = squareform(distance, checks=False)
    leaves = leaves_list(optimal_leaf_ordering(average(condensed), condensed))
    return [*confused[leaves].tolist(), *rest]


def _dense(found: Mapping[str, Any]) -> np.ndarray:
    size = len(found["labels"])
    counts = np.zeros((size, size), np.int64)
    for truth, answer, count in found["cells"]:
        counts[truth, answer] += count
    return counts


def _drawing(counts: np.ndarray, totals: np.ndarray, labels: Sequence[str]) -> Markup:
    size = len(counts)
    share = counts / np.maximum(totals[:, None], 1)
    shade = np.ceil(np.sqrt(share) * _SHADES).astype(int)
    right = np.eye(size, dtype=bool)
    parts: list[Markup] = []
    for class_, cells in (("right", right), ("wrong", ~right)):
        for level in range(1, _SHADES + 1):
            path = "".join(f"M{j} {i}h1v1h-1z" for i, j in np.argwhere(cells & (shade == level)))
            if path:
                opacity = round(_FAINTEST + (1 - _FAINTEST) * level / _SHADES, 2)
                parts.append(element("path", d=path, class_=class_, fill_opacity=opacity))
    if size <= _ROOMY:
        parts += [
            element(
                "text",
                int(counts[i, j]),
                x=j + 0.5,
                y=i + 0.64,
                class_="on-dark" if shade[i, j] > _DARK else None,
            )
            for i, j in np.argwhere(counts > 0)
        ]
    parts += [element("path", class_="cross"), element("rect", class_="spot")]
    right_count = int(np.trace(counts))
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {size} {size}",
        class_="cells",
        tabindex=0,
        role="img",
        aria_label=f"Confusion matrix of {size} labels, {right_count:,} of {int(counts.sum()):,} right. "
        "Rows are the truth, columns the answers. Arrow keys move from cell to cell.",
    )
