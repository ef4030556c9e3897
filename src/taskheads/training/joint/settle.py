"""From a tuned backbone to its heads: the one that was trained with it, or one solved for anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.heads import Head, LinearHead
from taskheads.model.evaluation import decided, metric_value, truth_of
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import TaskData
from taskheads.training.candidates import single_candidates
from taskheads.training.frozen import fit_head
from taskheads.training.held_out import ENOUGH
from taskheads.training.trial import Fitted, encoded_targets


def settled(backbone: Backbone, data: TaskData, trained: Head, features: FrozenFeatures) -> Fitted:
    """The better of the head that was trained and of one solved for on what the backbone's output is now,
    with its penalty chosen and its minimum exact. `features` hold the single reads.

    The best on dev of many penalties looks better there than it is, and a head that was trained was not
    chosen so. Which is better is therefore judged on rows that did not choose: of heads made with each half
    of dev, on the other half.
    """
    reads = single_candidates(backbone, type(trained), data.task)
    ways = [
        lambda some: _as_trained(some, trained, features),
        lambda some: fit_head(backbone, some, features, reads),
    ]
    kept, solved = (way(data) for way in ways)
    if len(data.splits["dev"]) < 2 * ENOUGH:
        ours, theirs = kept.utility, solved.utility
    else:
        ours, theirs = (_on_other_half(way, data, features) for way in ways)
    best = solved if theirs > ours else kept
    best.tried = [kept.summary, *solved.tried]
    return best


def _on_other_half(way: Callable[[TaskData], Fitted], data: TaskData, features: FrozenFeatures) -> float:
    """How good on average a head that is made this way with one half of dev is on the other half."""
    dev, found = data.splits["dev"], []
    for mine, other in ((0, 1), (1, 0)):
        half, rest = (dev.at(range(start, len(dev), 2)) for start in (mine, other))
        head = way(replace(data, splits=data.splits | {"dev": half})).head
        value = metric_value(head, truth_of(head, rest), decided(head, rest, features)[1])
        found.append(head.metric.utility(value))
    return sum(found) / 2


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
