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
    """Of the head that was trained, and one solved for on what the backbone's output is now (with its penalty
    chosen and its minimum exact), the one that tells dev better. `features` hold the single reads.

    The better is the one with the lower loss, a proper scoring rule (Gneiting and Raftery 2007), which learns
    from every row how far off a head was. Two heads on one backbone differ in few answers, so that which of
    them has the better score is often chance. For `embed`, whose loss is of a batch and not of a row, the
    score decides.
    """
    kept = _as_trained(data, trained, features)
    solved = fit_head(backbone, data, features, single_candidates(backbone, type(trained), data.task))
    best = kept if missed(kept, data, features) <= missed(solved, data, features) else solved
    best.tried = [kept.summary, *solved.tried]
    return best


@torch.no_grad()
def missed(fitted: Fitted, data: TaskData, features: FrozenFeatures) -> float:
    """How badly the head tells dev: its loss; for `embed` the score with its sign turned."""
    head = fitted.head
    if not isinstance(head, LinearHead):
        return -fitted.utility
    gathered, lengths = features.of(head, data.splits["dev"])
    return float(head.loss(head(gathered), encoded_targets(data.task, data.splits["dev"]), lengths))


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
