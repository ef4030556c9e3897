"""What a metric is: statistics of each row, summed over the rows, and a value read off the sums.

Accuracy is (right, 1) for each row and a quotient of sums; F1 is counts for each class; Pearson's r is five
moments; average precision is counts between the scores of the positives. A metric written so has its value,
its value under row weights and its value on a bootstrap resample (whose weights are how often each row was
drawn) from one definition, and a thousand resamples are one product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

KINDS = ("classify", "multilabel", "regress", "ordinal", "tag", "pair", "similarity", "embed")


@dataclass(frozen=True)
class Sums:
    """A metric on given data, as a function of the rows' weights.

    `statistics` [S, n], a sparse array, holds S numbers for each of n rows; `value` takes their weighted sums
    [S, R], a column for each of R weightings, to R values. A value is always a number: where the definition
    is 0/0 the metric says what it takes instead.
    """

    statistics: Any
    value: Callable[[np.ndarray], np.ndarray]

    @property
    def rows(self) -> int:
        return self.statistics.shape[1]

    def at(self, weights: np.ndarray) -> np.ndarray:
        """The values [R] under the row weights [n, R]."""
        return self.value(self.statistics @ weights)


@dataclass(frozen=True)
class Metric:
    """A named measure of predictions against the truth.

    Parameters
    ----------
    name: by which a task asks for it.
    kinds: the kinds of task it judges, of `KINDS` (`pair` has labels, `similarity` is a pair with numbers).
    summary: one line for a table.
    reduce: `(truth, predicted, scores) -> Sums`, the definition.
    higher_is_better: False for an error, such as `mae`. Whoever chooses by a metric compares `utility`.

    The data it takes, by kind (n rows):

    ========================  =========================  ======================  ============================
    kind                      truth                      predicted               scores
    ========================  =========================  ======================  ============================
    classify, pair            int [n]                    int [n]                 [n, C], or [n] of label 1
    multilabel                bool [n, C]                bool [n, C]             [n, C]
    regress, similarity       float [n]                  float [n]
    ordinal                   int [n], the level         int [n], the level
    tag                       n lists of tags            n lists of tags
    embed                     n arrays of relevant       None                    see `ranks_of_relevant`
                              documents
    ========================  =========================  ======================  ============================
    """

    name: str
    kinds: frozenset[str]
    summary: str
    reduce: Callable[[Any, Any, Any], Sums]
    higher_is_better: bool = True

    @property
    def sign(self) -> int:
        return 1 if self.higher_is_better else -1

    def utility(self, value: float) -> float:
        """The value, turned so that higher is better: what a choice between models maximises."""
        return self.sign * value

    def sums(self, truth: Any, predicted: Any, scores: Any = None) -> Sums:
        """The metric on these data, as a function of the rows' weights; ValueError if it cannot be had."""
        if len(truth) == 0:
            raise ValueError(f"{self.name} of no rows is not defined: there is nothing to score")
        if predicted is not None and len(predicted) != len(truth):
            raise ValueError(
                f"{self.name} needs one prediction a row: {len(predicted)} for {len(truth)} rows"
            )
        return self.reduce(truth, predicted, scores)

    def compute(self, truth: Any, predicted: Any, scores: Any = None, weights: Any = None) -> float:
        """The value; `weights` [n] counts row i as `weights[i]` rows."""
        sums = self.sums(truth, predicted, scores)
        if weights is None:
            weights = np.ones(sums.rows)
        weights = np.asarray(weights, dtype=np.float64)
        if weights.shape != (sums.rows,) or not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError(f"weights must be {sums.rows} finite numbers that are not negative, one a row")
        if not weights.any():
            raise ValueError(f"{self.name} is not defined where every row weighs 0")
        return float(sums.at(weights[:, None])[0])


def statistics(*lines: Any) -> Any:
    """Statistics [S, n] of S arrays [n].

    All statistics are sparse, also where few entries are 0: for a few lines the sparse product is as fast as
    a dense one, needs no threads, and adds up in the same order on every machine.
    """
    from scipy.sparse import csr_array  # at first use: listing the metrics must not cost its import

    return csr_array(np.stack([np.asarray(line, dtype=np.float64) for line in lines]))


def counts_at(
    line: np.ndarray, row: np.ndarray, shape: tuple[int, int], count: np.ndarray | None = None
) -> Any:
    """Statistics [S, n] that are 0 but for `count` (else 1) at (line, row); at one place counts add up."""
    from scipy.sparse import coo_array

    count = np.ones(len(line)) if count is None else count
    return coo_array((count, (line, row)), shape=shape).tocsr()


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """`above / below`, and 0 where `below` is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, dtype=np.float64), below)
    return np.divide(above, below, out=np.zeros(above.shape), where=below != 0)


def mean(of_row: np.ndarray, count: np.ndarray | None = None) -> Sums:
    """The weighted mean: of a number a row, or of numbers that are already sums of `count` a row."""
    count = np.ones(len(of_row)) if count is None else count
    return Sums(statistics(of_row, count), lambda sums: ratio(sums[0], sums[1]))


Register = Callable[[Callable[..., Sums]], Callable[..., Sums]]


class Collection(dict[str, Metric]):
    """Metrics by name, filled by the decorator `define`."""

    def define(
        self, name: str, kinds: str, summary: str, *, higher_is_better: bool = True, **fixed: Any
    ) -> Register:
        """Enter the decorated `(truth, predicted, scores, **fixed)` function under `name`."""
        unknown = set(kinds.split()) - set(KINDS)
        if unknown or name in self:
            raise ValueError(f"metric {name!r} is defined twice or for unknown kinds {sorted(unknown)}")

        def enter(function: Callable[..., Sums]) -> Callable[..., Sums]:
            reduce = partial(function, **fixed) if fixed else function
            self[name] = Metric(name, frozenset(kinds.split()), summary, reduce, higher_is_better)
            return function

        return enter
