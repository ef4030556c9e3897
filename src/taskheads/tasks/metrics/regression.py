"""Metrics of numbers and of ordered levels."""

from __future__ import annotations

from typing import Any

import numpy as np

from taskheads.tasks.metrics.classification import label_indices
from taskheads.tasks.metrics.metric import Collection, Sums, counts_at, mean, ratio, statistics

METRICS = Collection()
NUMBERS = "regress similarity"
ORDERED = "regress similarity ordinal"

# A variance below this share of the mean square is rounding, not spread: the values are one constant.
ROUNDING = 1e-12


def numbers(truth: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as float arrays [n], or a ValueError that names the first row that is not a finite number."""
    checked = []
    for what, values in (("truth", truth), ("predicted", predicted)):
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 1:
            raise ValueError(f"{what} must be numbers [n], not of shape {list(values.shape)}")
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise ValueError(f"{what} has {values[wrong[0]]} in row {wrong[0]}: it must be a finite number")
        checked.append(values)
    return checked[0], checked[1]


@METRICS.define("mae", ORDERED, "mean absolute error (lower is better)", higher_is_better=False)
def mae(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Mean of |predicted - truth|, in the truth's unit, or in levels (Willmott and Matsuura 2005)."""
    truth, predicted = numbers(truth, predicted)
    return mean(np.abs(predicted - truth))


@METRICS.define("rmse", NUMBERS, "root of the mean squared error (lower is better)", higher_is_better=False)
def rmse(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Square root of the mean of (predicted - truth)^2, in the truth's unit (Gauss 1821)."""
    truth, predicted = numbers(truth, predicted)
    squared = mean((predicted - truth) ** 2)
    return Sums(squared.statistics, lambda sums: np.sqrt(squared.value(sums)))


@METRICS.define("r2", NUMBERS, "share of the variance explained")
def r2(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Coefficient of determination, 1 - squared error / squared deviation from the mean (Wright 1921).

    Where the truth is one constant: 1 if every prediction equals it, else 0.
    """
    truth, predicted = numbers(truth, predicted)
    centred = truth - truth.mean()
    lines = statistics((predicted - truth) ** 2, centred, centred**2, np.ones(len(truth)))

    def value(sums: np.ndarray) -> np.ndarray:
        error, total, squares, count = sums
        spread = _spread(total, squares, count)
        return np.where(spread > 0, 1 - ratio(error, spread), np.where(error == 0, 1.0, 0.0))

    return Sums(lines, value)


def _spread(total: np.ndarray, squares: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Sum of squared deviations from the mean; exactly 0 for a constant."""
    spread = squares - total**2 / count
    return np.where(spread > ROUNDING * squares, spread, 0.0)


@METRICS.define("pearson", ORDERED, "linear correlation")
def pearson(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Product-moment correlation (Pearson 1895). A constant on either side tells nothing: 0."""
    truth, predicted = numbers(truth, predicted)
    x, y = truth - truth.mean(), predicted - predicted.mean()
    lines = statistics(x, y, x * x, y * y, x * y, np.ones(len(x)))

    def value(sums: np.ndarray) -> np.ndarray:
        x, y, xx, yy, xy, count = sums
        # Two roots, not the root of a product: of tiny spreads the product may be 0.
        return np.clip(
            ratio(xy - x * y / count, np.sqrt(_spread(x, xx, count)) * np.sqrt(_spread(y, yy, count))), -1, 1
        )

    return Sums(lines, value)


@METRICS.define("spearman", ORDERED, "rank correlation")
def spearman(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Pearson's correlation of the ranks, equal values sharing their mean rank (Spearman 1904).

    A constant on either side has no order to agree with: 0. The ranks of a resample follow from the rows'
    weights (a value's mean rank is the weight below it and half the weight at it), so the statistics are the
    weights themselves, and the sums [n, R] are ranked without sorting again.
    """
    truth, predicted = numbers(truth, predicted)
    rows = np.arange(len(truth))
    x_group = np.unique(truth, return_inverse=True)[1]
    y_group = np.unique(predicted, return_inverse=True)[1]
    x_groups, y_groups = (
        counts_at(group, rows, (int(group.max()) + 1, len(rows))) for group in (x_group, y_group)
    )

    def value(weights: np.ndarray) -> np.ndarray:
        x_rank, x_spread = _centred_ranks(x_groups @ weights)
        y_rank, y_spread = _centred_ranks(y_groups @ weights)
        shared = np.einsum("nr,nr,nr->r", weights, x_rank[x_group], y_rank[y_group])
        return np.clip(ratio(shared, np.sqrt(x_spread) * np.sqrt(y_spread)), -1, 1)

    return Sums(counts_at(rows, rows, (len(rows), len(rows))), value)


def _centred_ranks(mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of groups in ascending order, less the mean rank of all, and their sum of squares over rows."""
    upto = np.cumsum(mass, axis=0)
    rank = upto - mass / 2 - upto[-1] / 2
    spread = np.einsum("gr,gr,gr->r", mass, rank, rank)
    return rank, np.where((mass > 0).sum(0) > 1, spread, 0.0)


@METRICS.define("quadratic_kappa", "ordinal", "agreement beyond chance, a miss by two levels costs four")
def quadratic_kappa(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Cohen's kappa with squared weights (Cohen 1968), 1 - observed / expected squared distance of the
    levels.

    Under independence E(i - j)^2 = E i^2 + E j^2 - 2 E i E j, so the confusion matrix is not needed, only
    moments. Distances are between level indices, whichever levels occur. A constant prediction has 0; so has
    the case that is 0/0, truth and prediction one and the same constant, where agreement is no evidence of
    anything.
    """
    i = label_indices(truth, "truth").astype(np.float64)
    j = label_indices(predicted, "predicted").astype(np.float64)
    lines = statistics((i - j) ** 2, i, j, i * i + j * j, np.ones(len(i)))

    def value(sums: np.ndarray) -> np.ndarray:
        apart, i, j, squares, count = sums
        expected = count * squares - 2 * i * j
        expected = np.where(expected > ROUNDING * count * squares, expected, 0.0)
        return np.where(expected > 0, 1 - ratio(count * apart, expected), 0.0)

    return Sums(lines, value)
