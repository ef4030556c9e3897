"""The end of a comparison: those that have seen all rows answer the test rows, once, and a clock is held."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taskheads.backbone.cache import FeatureCache
from taskheads.model.evaluation import decided, judged, truth_of
from taskheads.model.model import Model
from taskheads.tasks.metrics.bootstrap import resampled_values
from taskheads.tasks.suite import Suite

RESAMPLES = 1000
_LEVEL = 0.95
# Single rows that are answered to tell how long one takes.
_TIMED = 20


def judged_on_test(
    models: Mapping[str, Sequence[Path]],
    suite: Suite,
    scales: Mapping[str, float],
    best: str,
    cache: FeatureCache | None = None,
) -> dict[str, dict[str, Any]]:
    """The test scores of saved models, by way; several models of a way are its seeds, and count as their
    mean.

    Returns of each way {"tasks": {task: {value, low, high}}, "mean": {...}, "beside": {...}, "latency_ms"}:
    95 % bootstrap intervals over rows, on the same resamples for all ways; "beside" is its mean less that of
    `best`, paired; latency is that of one row and all its tasks, in the median. Empty where there are no test
    rows.
    """
    rows = {name: data.splits["test"] for name, data in suite.tasks.items() if len(data.splits["test"])}
    values: dict[str, dict[str, np.ndarray]] = {}
    latency = {}
    for key, folders in models.items() if rows else ():
        of_seeds = []
        for folder in folders:
            model = Model.load(folder)
            of_seeds.append(_values(model, rows, suite.seed, cache))
        values[key] = {name: np.mean([each[name] for each in of_seeds], axis=0) for name in rows}
        latency[key] = latency_of(model, suite)
    means = {key: np.mean([of[name] * scales[name] for name in rows], axis=0) for key, of in values.items()}
    return {
        key: {
            "tasks": {name: _interval(each) for name, each in of.items()},
            "mean": _interval(means[key]),
            "beside": _interval(means[key] - means[best]),
            "latency_ms": latency[key],
        }
        for key, of in values.items()
    }


def latency_of(model: Model, suite: Suite) -> float:
    """Milliseconds to answer one row by all tasks that it has columns for, in the median of some rows."""
    rows = [
        {name: column[at] for name, column in zip(data.task.inputs, data.splits["test"].inputs, strict=True)}
        for data in suite.tasks.values()
        for at in range(min(_TIMED, len(data.splits["test"])))
    ]
    taken = []
    for row in [rows[0], *rows]:  # the first one is slower, and does not count
        began = time.perf_counter()
        model.predict([row])
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken[1:])


def _values(
    model: Model, rows: Mapping[str, Any], seed: int, cache: FeatureCache | None
) -> dict[str, np.ndarray]:
    """Of each task [1 + RESAMPLES]: the metric on the rows, then on each resample of them."""
    features = model.features(dict(rows), cache)
    found = {}
    for name, examples in rows.items():
        head = model.heads[name]
        _, made = decided(head, examples, features(model.backbone_of(name)))
        sums = head.metric.sums(*judged(head, truth_of(head, examples), made))
        whole = sums.at(np.ones((sums.rows, 1)))
        found[name] = np.concatenate([whole, resampled_values([sums], RESAMPLES, seed)[0]])
    return found


def _interval(values: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(values[1:], [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}
