"""From a tuned backbone to its heads: the one that was trained with it, or one solved for anew."""

from __future__ import annotations

import copy

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.heads import Head, LinearHead
from taskheads.model.evaluation import metric_value, truth_of
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import TaskData
from taskheads.training.candidates import single_candidates
from taskheads.training.frozen import fit_head
from taskheads.training.trial import Fitted, encoded_targets


def settled(backbone: Backbone, data: TaskData, trained: Head, features: FrozenFeatures) -> Fitted:
    """The better on dev of the head that was trained and of one solved for on what the backbone's output is
    now, with its penalty chosen and its minimum exact. `features` hold the single reads."""
    kept = _as_trained(data, trained, features)
    solved = fit_head(backbone, data, features, single_candidates(backbone, type(trained), data.task))
    best = solved if solved.utility > kept.utility else kept
    best.tried = [kept.summary, *solved.tried]
    return best


def _as_trained(data: TaskData, trained: Head, features: FrozenFeatures) -> Fitted:
    """The trained head with its decisions tuned and its probabilities calibrated on dev."""
    head = copy.deepcopy(trained).cpu().eval()
    train, dev = data.splits["train"], data.splits["dev"]
    gathered, lengths = features.of(head, dev)
    factor = 1.0
    with torch.no_grad():
        if isinstance(head, LinearHead):
            targets = encoded_targets(data.task, dev)
            head.tune(head(gathered), targets)
            words = [len(row) for row in train.targets] if data.task.kind == "tag" else None
            head.finish(encoded_targets(data.task, train), words)
            factor = head.calibrate(head(gathered), targets, lengths)
        made = head.decide(head(gathered), lengths)
    return Fitted(head, "trained", 0.0, metric_value(head, truth_of(head, dev), made), factor)
