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
from taskheads.model.features import features_by_task, features_of
from taskheads.tasks.task import Examples
from taskheads.training.trial import encoded_targets


def on_dev(backbone: Backbone, heads: Mapping[str, Head], dev: Mapping[str, Examples]) -> dict[str, float]:
    """Each task's utility (its metric, turned so that higher is better) once its decisions are tuned on these
    same rows, as those of frozen heads are; the heads themselves are left alone. NaN becomes -inf."""
    features = features_by_task(
        backbone, heads, lambda each, tasks: features_of(each, {name: heads[name] for name in tasks}, dev)
    )
    found = {}
    with torch.inference_mode():
        for name, head in heads.items():
            head = copy.deepcopy(head).cpu()
            gathered, lengths = features(name).of(head, dev[name])
            scores = head(gathered)
            if isinstance(head, LinearHead):
                scores = head.tune(scores, encoded_targets(head.task, dev[name]))
            made: Decisions = head.decide(scores, lengths)
            value = head.metric.utility(metric_value(head, truth_of(head, dev[name]), made))
            found[name] = float(value) if np.isfinite(value) else float("-inf")
    return found
