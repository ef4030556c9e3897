"""Metrics of decided labels: one a row (classify, pair, ordinal), one a token (tag), several (multilabel)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from taskheads.tasks.metrics.metric import Collection, Sums, counts_at, mean, ratio, statistics

METRICS = Collection()


@dataclass(frozen=True)
class Decisions:
    """Truth and prediction, laid end to end: item i is of `row[i]`; a row is one item, or a token each."""

    truth: np.ndarray
    predicted: np.ndarray
    row: np.ndarray
    rows: int
    labels: tuple[str, ...] = ()  # by code, where the data were strings

    @property
    def right(self) -> np.ndarray:
        return self.truth == self.predicted


def decisions(truth: Any, predicted: Any) -> Decisions:
    """Label indices as they are, one a row; lists of tags numbered in the order of their appearance."""
    if isinstance(truth[0], Sequence | np.ndarray) and not isinstance(truth[0], str):
        return _tags(truth, predicted)
    truth, predicted = label_indices(truth, "truth"), label_indices(predicted, "predicted")
    return Decisions(truth, predicted, np.arange(len(truth)), len(truth))


def label_indices(values: Any, what: str) -> np.ndarray:
    """As an int array [n], or a ValueError that says what else it is."""
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iub":
        raise ValueError(
            f"{what} must be label indices [n], not {values.dtype} of shape {list(values.shape)}"
        )
    values = values.astype(np.int64)
    if values.min() < 0:
        raise ValueError(f"{what} has {values.min()} in row {values.argmin()}: a label index is not negative")
    return values


def _tags(truth: Any, predicted: Any) -> Decisions:
    lengths = np.array([len(sentence) for sentence in truth])
    differ = np.flatnonzero(lengths != [len(sentence) for sentence in predicted])
    if len(differ):
        at = int(differ[0])
        raise ValueError(f"sentence {at} has {lengths[at]} tags but {len(predicted[at])} predicted tags")
    if not lengths.any():
        raise ValueError("no sentence has a tag: there is nothing to score")
    number: dict[str, int] = {}
    flat = [number.setdefault(tag, len(number)) for tag in chain.from_iterable(chain(truth, predicted))]
    if not all(isinstance(tag, str) for tag in number):
        raise ValueError("rows of several labels must be lists of tags (str), or one bool array [n, C]")
    true, guessed = np.array(flat).reshape(2, -1)
    return Decisions(true, guessed, np.repeat(np.arange(len(lengths)), lengths), len(lengths), tuple(number))


def class_counts(truth: Any, predicted: Any) -> tuple[Any, int]:
    """Statistics [3 C, n]: for each class, the items of a row that are right, predicted and true; and C."""
    if np.ndim(truth[0]) == 1 and isinstance(truth, np.ndarray):
        true, guessed = label_sets(truth, predicted)
        rows, classes = true.shape
        places = [np.nonzero(cells) for cells in (true & guessed, guessed, true)]
    else:
        items = decisions(truth, predicted)
        rows, classes = items.rows, int(max(items.truth.max(), items.predicted.max())) + 1
        right = items.right
        places = [
            (items.row[right], items.truth[right]),
            (items.row, items.predicted),
            (items.row, items.truth),
        ]
    row = np.concatenate([row for row, _ in places])
    line = np.concatenate([label + block * classes for block, (_, label) in enumerate(places)])
    return counts_at(line, row, (3 * classes, rows)), classes


def label_sets(truth: Any, predicted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as bool arrays [n, C], or a ValueError that names what is wrong."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 2 or truth.shape != predicted.shape:
        raise ValueError(
            "multi-label truth and predicted must both be [n, C], "
            f"not {list(truth.shape)} and {list(predicted.shape)}"
        )
    return truth.astype(bool), predicted.astype(bool)


@METRICS.define("accuracy", "classify pair ordinal tag", "share of rows (of tokens) with the right label")
def accuracy(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Right answers over answers; for tags over all tokens, as conlleval prints it beside its F1."""
    items = decisions(truth, predicted)
    right = np.bincount(items.row, weights=items.right, minlength=items.rows)
    return mean(right, np.bincount(items.row, minlength=items.rows))


@METRICS.define("balanced_accuracy", "classify pair ordinal", "recall of each class, averaged over classes")
def balanced_accuracy(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Mean recall over the classes that occur in the truth (Brodersen et al. 2010, ICPR)."""
    counts, classes = class_counts(truth, predicted)

    def value(sums: np.ndarray) -> np.ndarray:
        right, _, true = sums.reshape(3, classes, -1)
        return ratio(ratio(right, true).sum(0), (true > 0).sum(0))

    return Sums(counts, value)


@METRICS.define("macro_f1", "classify pair ordinal multilabel tag", "F1 of each class, averaged over classes")
def macro_f1(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Mean of the classes' F1 (the "averaged F1" of Opitz and Burst 2019, arXiv:1911.03347).

    F1 = 2 right / (predicted + true), van Rijsbergen 1979. A class that is neither true nor predicted
    anywhere has no F1 and is left out; one that is never right has 0.
    """
    counts, classes = class_counts(truth, predicted)

    def value(sums: np.ndarray) -> np.ndarray:
        right, guessed, true = sums.reshape(3, classes, -1)
        return ratio(ratio(2 * right, guessed + true).sum(0), (guessed + true > 0).sum(0))

    return Sums(counts, value)


@METRICS.define("micro_f1", "multilabel", "F1 of all decisions (row, label) pooled")
def micro_f1(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """F1 of the pooled counts (micro-averaging: Lewis 1991, "Evaluating text categorization"); 0 without any.

    With one label a row it is accuracy, and is not offered there.
    """
    true, guessed = label_sets(truth, predicted)
    return f1_of_counts((true & guessed).sum(1), guessed.sum(1), true.sum(1))


def f1_of_counts(right: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> Sums:
    """F1 from the counts [n] of each row; 0 if nothing is predicted or true."""
    return Sums(statistics(right, predicted, true), lambda sums: ratio(2 * sums[0], sums[1] + sums[2]))


@METRICS.define("exact_match", "multilabel", "share of rows with exactly the right set of labels")
def exact_match(truth: Any, predicted: Any, scores: Any = None) -> Sums:
    """Subset accuracy, the strictest measure of Tsoumakas and Katakis 2007, "Multi-label classification"."""
    true, guessed = label_sets(truth, predicted)
    return mean((true == guessed).all(1))
