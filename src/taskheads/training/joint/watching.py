"""How good every task is on dev while the backbone learns."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.heads import Head, LinearHead
from taskheads.heads.head import Decisions
from taskheads.model.evaluation import metric_value, truth_of
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import Examples
from taskheads.training.frozen import encoded_targets


def features_of(
    backbone: Backbone, heads: Mapping[str, Head], rows: Mapping[str, Examples]
) -> FrozenFeatures:
    """What the heads read of these rows from the backbone as it is now."""
    needs = [(request, rows[name]) for name, head in heads.items() for request in head.requests]
    reads: dict[str, set] = {}
    for head in heads.values():
        for request in head.requests:
            reads.setdefault(request.form, set()).update(head.reads)
    return FrozenFeatures(backbone, needs, lambda form: sorted(reads[form]))


def on_dev(backbone: Backbone, heads: Mapping[str, Head], dev: Mapping[str, Examples]) -> dict[str, float]:
    """Each task's utility (its metric, turned so that higher is better) once its decisions are tuned on these
    same rows, as those of frozen heads are; the heads themselves are left alone. NaN becomes -inf."""
    features = features_of(backbone, heads, dev)
    found = {}
    with torch.inference_mode():
        for name, head in heads.items():
            head = copy.deepcopy(head).cpu()
            gathered, lengths = features.of(head, dev[name])
            scores = head(gathered)
            if isinstance(head, LinearHead):
                scores = head.tune(scores, encoded_targets(head.task, dev[name]))
            made: Decisions = head.decide(scores, lengths)
            value = head.metric.utility(metric_value(head, truth_of(head, dev[name]), made))
            found[name] = float(value) if np.isfinite(value) else float("-inf")
    return found


def some_rows(examples: Examples, count: int) -> Examples:
    """At most `count` of the rows, evenly spaced."""
    if len(examples) <= count:
        return examples
    rows = np.unique(np.linspace(0, len(examples) - 1, count).astype(int)).tolist()
    return Examples(
        tuple([column[row] for row in rows] for column in examples.inputs),
        [examples.targets[row] for row in rows],
        [examples.sources[row] for row in rows],
    )
