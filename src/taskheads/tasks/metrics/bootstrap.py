"""How far a metric's value could have been otherwise: the bootstrap over rows (Efron 1979).

A resample draws n of n rows with replacement. All a metric needs to know of it is how often each row was
drawn, as weights (see `metric.Sums`), so a block of resamples is one product of matrices. Sentences are the
rows of tag data, queries those of search: what was drawn together is resampled together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskheads.tasks.metrics.metric import Metric, Sums

_NUMBERS_AT_ONCE = 2_000_000  # float64 in a block of weights and sums: 16 MB, and a few times that in passing


@dataclass(frozen=True)
class Interval:
    """A value and the two ends of its confidence interval."""

    value: float
    low: float
    high: float


def resampled_rows(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """The row indices [rows] of each resample; the r-th is the same however many are asked for."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.integers(rows, size=rows, dtype=np.int32)


def resampled_values(sums: Sequence[Sums], resamples: int, seed: int) -> np.ndarray:
    """[len(sums), resamples]: the value of each on the same resamples of the rows that they share."""
    rows = sums[0].rows
    if any(one.rows != rows for one in sums):
        raise ValueError("only metrics on the same rows can share resamples")
    size = max(1, _NUMBERS_AT_ONCE // (rows + sum(one.statistics.shape[0] for one in sums)))
    draws = resampled_rows(rows, resamples, seed)
    values = np.empty((len(sums), resamples))
    for start in range(0, resamples, size):
        width = min(size, resamples - start)
        weights = np.empty((width, rows))
        for of_resample in weights:
            of_resample[:] = np.bincount(next(draws), minlength=rows)
        weights = np.ascontiguousarray(weights.T)
        for one, of_one in zip(sums, values, strict=True):
            of_one[start : start + width] = one.at(weights)
    return values


def interval(
    metric: Metric,
    truth: Any,
    predicted: Any,
    scores: Any = None,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """The metric's value and its percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    Where a resample leaves the metric undefined, the metric's own convention for that case enters. Metrics
    that are not means of rows are biased on resamples (a positive drawn twice helps itself to average
    precision, a rare class not drawn at all leaves macro F1), so the interval need not stand around the
    value.
    """
    sums = metric.sums(truth, predicted, scores)
    values = resampled_values([sums], resamples, seed)[0]
    return Interval(_value(sums), *_ends(values, level))


def paired_difference(
    metric: Metric,
    truth: Any,
    a: Any,
    b: Any,
    *,
    scores_a: Any = None,
    scores_b: Any = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """By how much `a` is better than `b`, both on the same resamples (paired bootstrap, Koehn 2004, EMNLP).

    It is the difference of `metric.utility`: positive where `a` is better, also for an error such as `mae`.
    An interval above 0 says that `a` is better at this level. For search pass the similarities as `scores_a`
    and `scores_b`, and None for `a` and `b`.
    """
    sums = [metric.sums(truth, a, scores_a), metric.sums(truth, b, scores_b)]
    of_a, of_b = resampled_values(sums, resamples, seed)
    value = metric.utility(_value(sums[0]) - _value(sums[1]))
    return Interval(value, *_ends(metric.sign * (of_a - of_b), level))


def _value(sums: Sums) -> float:
    return float(sums.at(np.ones((sums.rows, 1)))[0])


def _ends(values: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
