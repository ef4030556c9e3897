"""Metrics of scores: does a label's score rank the rows that have it above those that do not?

Both metrics here need of a label's scores only how many rows lie at, and between, the scores of its
positives. These counts are sums over rows, so a resample needs no sorting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from taskheads.tasks.metrics.metric import Collection, Sums, counts_at, ratio

METRICS = Collection()


def truth_by_label(truth: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    """Truth as bool [n, C] beside its scores [n, C]. Scores [n] are of label 1, or of the only label."""
    if scores is None:
        raise ValueError("this metric ranks rows by score: it needs `scores`")
    truth, scores = np.asarray(truth), np.asarray(scores, dtype=np.float64)
    if scores.ndim == 1:
        scores = scores[:, None]
        truth = truth.reshape(len(truth), -1) == 1
    elif truth.ndim == 1:
        if truth.max() >= scores.shape[1]:
            raise ValueError(f"truth has label index {truth.max()}, but scores has {scores.shape[1]} columns")
        truth = truth[:, None] == np.arange(scores.shape[1])
    if truth.shape != scores.shape:
        raise ValueError(
            f"scores must be {list(truth.shape)}, a number for each row and label, not {list(scores.shape)}"
        )
    if np.isnan(scores).any():
        raise ValueError(f"scores has NaN in row {int(np.isnan(scores).any(1).argmax())}")
    return truth.astype(bool), scores


@dataclass(frozen=True)
class Buckets:
    """The rows of each label, from the best score down, in buckets that its positives' scores delimit.

    A label with k distinct scores among its positives has k + 1 buckets: the rows that score as high as the
    first, those below it that score as high as the second, and so on, then the rest. All labels' buckets
    stand in one line. `statistics` [2 B, n]: row i's weight goes to its bucket of each label, among the B of
    the negatives or the B of the positives.
    """

    statistics: Any
    start: np.ndarray  # of each label's buckets in the line; labels with no positive have none
    size: np.ndarray

    @classmethod
    def of(cls, truth: np.ndarray, scores: np.ndarray, tied: float = 1.0) -> Buckets:
        """A negative that ties with a positive counts `tied` into that one's bucket, else into the next."""
        truth, scores = truth[:, truth.any(0)], scores[:, truth.any(0)]
        line = np.empty(truth.T.shape, dtype=np.int64)
        ties = np.zeros(truth.T.shape, dtype=bool)
        size = np.zeros(len(line), dtype=np.int64)
        for label, of_label in enumerate(scores.T):
            cuts = np.unique(of_label[truth[:, label]])
            reached = np.searchsorted(cuts, of_label, "right")
            line[label] = len(cuts) - reached
            ties[label] = (cuts[reached - 1] == of_label) & ~truth[:, label]
            size[label] = len(cuts) + 1
        start = np.cumsum(size) - size
        line += start[:, None] + np.where(truth.T, size.sum(), 0)
        row = np.broadcast_to(np.arange(len(truth)), line.shape)
        count = np.where(ties, tied, 1.0)
        statistics = counts_at(
            np.concatenate([line.ravel(), line[ties] + 1]),
            np.concatenate([row.ravel(), row[ties]]),
            (2 * int(size.sum()), len(truth)),
            np.concatenate([count.ravel(), 1.0 - count[ties]]),
        )
        return cls(statistics, start, size)

    def split(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The weights of the negatives and of the positives in each bucket, [B, R] each."""
        negative, positive = sums.reshape(2, -1, sums.shape[1])
        return negative, positive

    def total(self, of_bucket: np.ndarray) -> np.ndarray:
        """[labels, R]: the buckets of each label summed."""
        return np.add.reduceat(of_bucket, self.start, axis=0)

    def running(self, of_bucket: np.ndarray) -> np.ndarray:
        """[B, R]: the sum from the label's best bucket to this one, this one included."""
        upto = np.cumsum(of_bucket, axis=0)
        before = upto[self.start] - of_bucket[self.start]
        return upto - np.repeat(before, self.size, axis=0)


@METRICS.define(
    "average_precision", "classify pair multilabel", "area under precision over recall, averaged over labels"
)
def average_precision(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Average precision (Salton and McGill 1983; Zhu 2004), averaged over the labels that have a positive.

    AP = sum over distinct scores of (recall gained) x (precision there), without interpolation; rows of equal
    score are taken together. Two classes with scores [n, 2] are two labels; scores [n] are label 1's alone. 0
    if nothing is positive.
    """
    buckets = Buckets.of(*truth_by_label(truth, scores))

    def value(sums: np.ndarray) -> np.ndarray:
        if not len(buckets.size):
            return np.zeros(sums.shape[1])
        negative, positive = buckets.split(sums)
        found = buckets.running(positive)
        precision = ratio(found, found + buckets.running(negative))
        positives = buckets.total(positive)
        of_label = ratio(buckets.total(positive * precision), positives)
        return ratio(of_label.sum(0), (positives > 0).sum(0))

    return Sums(buckets.statistics, value)


@METRICS.define(
    "roc_auc", "classify pair multilabel", "chance that a positive outscores a negative, averaged over labels"
)
def roc_auc(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Area under the ROC curve, as the Mann-Whitney statistic (Hanley and McNeil 1982), label by label.

    A tie counts half. Averaged over the labels that have both a positive and a negative; 0.5 if none has.
    """
    buckets = Buckets.of(*truth_by_label(truth, scores), tied=0.5)

    def value(sums: np.ndarray) -> np.ndarray:
        if not len(buckets.size):
            return np.full(sums.shape[1], 0.5)
        negative, positive = buckets.split(sums)
        negatives = buckets.total(negative)
        beaten = np.repeat(negatives, buckets.size, axis=0) - buckets.running(negative)
        pairs = buckets.total(positive) * negatives
        of_label = ratio(buckets.total(positive * beaten), pairs)
        defined = (pairs > 0).sum(0)
        return np.where(defined > 0, ratio(of_label.sum(0), defined), 0.5)

    return Sums(buckets.statistics, value)
