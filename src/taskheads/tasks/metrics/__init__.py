"""The metrics that the field expects of each kind of task, with bootstrap confidence intervals.

    metric = metric_named("macro_f1", "classify")
    metric.compute(truth, predicted)             # a float
    interval(metric, truth, predicted)           # Interval(value, low, high)
    paired_difference(metric, truth, a, b)       # is a better than b?
    max(models, key=lambda m: metric.utility(value_of(m)))

What a metric takes for each kind is in `Metric`; how each is defined, and by whom, in the function that
defines it.
"""

from __future__ import annotations

from taskheads.errors import ConfigError
from taskheads.tasks.metrics import classification, ranking, regression, retrieval, tagging
from taskheads.tasks.metrics.bootstrap import Interval, interval, paired_difference
from taskheads.tasks.metrics.metric import KINDS, Metric, Sums
from taskheads.tasks.metrics.retrieval import Ranks, ranks_of_relevant
from taskheads.tasks.suggest import did_you_mean

__all__ = [
    "DEFAULT_METRIC",
    "METRICS",
    "Interval",
    "Metric",
    "Ranks",
    "Sums",
    "default_metric",
    "interval",
    "metric_named",
    "metrics_of",
    "paired_difference",
    "ranks_of_relevant",
]

METRICS: dict[str, Metric] = {
    **classification.METRICS,
    **ranking.METRICS,
    **regression.METRICS,
    **tagging.METRICS,
    **retrieval.METRICS,
}

# Multi-label: micro F1 judges the decisions that the user gets, thresholds included (average precision does
# not see them), gives part of the credit where exact match gives none, and does not hang on labels with a
# handful of positives, as macro F1 does.
DEFAULT_METRIC: dict[str, str] = {
    "classify": "accuracy",
    "multilabel": "micro_f1",
    "regress": "spearman",
    "ordinal": "quadratic_kappa",
    "tag": "entity_f1",
    "pair": "accuracy",
    "similarity": "spearman",
    "embed": "ndcg@10",
}


def default_metric(kind: str, flat: bool = False) -> str:
    """The metric of a task that names none; `flat` says that its tags are not B and I of entities."""
    _check(kind)
    return "accuracy" if kind == "tag" and flat else DEFAULT_METRIC[kind]


def metrics_of(kind: str) -> list[Metric]:
    """Every metric for tasks of this kind, the default first."""
    _check(kind)
    valid = [metric for metric in METRICS.values() if kind in metric.kinds]
    return sorted(valid, key=lambda metric: metric.name != DEFAULT_METRIC[kind])


def metric_named(name: str, kind: str) -> Metric:
    """The metric, or a ConfigError with the nearest name and all that this kind has."""
    valid = {metric.name: metric for metric in metrics_of(kind)}
    if name in valid:
        return valid[name]
    if name in METRICS:
        problem = f"metric {name!r} is not for {kind} tasks"
    else:
        problem = f"there is no metric {name!r}"
    raise ConfigError(
        f"{problem}{did_you_mean(name, valid)}; the metrics for {kind} tasks are {', '.join(valid)}"
    )


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise ConfigError(f"there is no kind of task {kind!r}; those with metrics are {', '.join(KINDS)}")
