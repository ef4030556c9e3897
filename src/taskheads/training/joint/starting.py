"""The heads that training begins with: solved on the frozen backbone."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.heads import Head, LinearHead, head_for
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import TaskData
from taskheads.training.candidates import single_candidates
from taskheads.training.every_task import for_every_task
from taskheads.training.frozen import fit_head
from taskheads.training.trial import encoded_targets

# How sure a head that tells all of its task is when a backbone begins to be tuned under it, in terms of the
# solved one. On the tasks of `benchmarks/joint.py`, all heads as sure, less (0.1) and more (1) ended worse.
_SURE = 0.3


def starting_heads(
    backbone: Backbone, tasks: Mapping[str, TaskData], features: FrozenFeatures
) -> dict[str, Head]:
    """The solutions on a single read, the backbone's output, for training to begin with."""

    def start(name: str) -> Head:
        data = tasks[name]
        reads = single_candidates(backbone, head_for(data.task), data.task)
        return copy.deepcopy(fit_head(backbone, data, features, reads).head).train()

    return for_every_task(tasks, lambda _: features, start)


@torch.no_grad()
def unsure(
    heads: Mapping[str, Head], tasks: Mapping[str, TaskData], features: FrozenFeatures
) -> dict[str, Head]:
    """These heads, those of them that give probabilities with scores `_SURE` times the root of their `skill`
    as far from the mean that they give to train. (Skill is of the loss what R2 is of the variance, its root
    what a correlation is.)

    A solved head is right about nearly all rows that it was solved on, and leaves a backbone that is tuned
    under it little to learn; one that is less sure makes it learn more, which is called for where the
    features tell little of a task (Ren et al. 2023, arXiv:2302.05779). There the head knows its train rows
    better than the task, and a backbone that is tuned under it goes on to learn them by heart.
    """
    for name, head in heads.items():
        if isinstance(head, LinearHead) and head.curvature is not None:
            gathered, _ = features.of(head, tasks[name].splits["train"])
            mean = head(gathered).mean(0)
            sure = _SURE * math.sqrt(skill(head, tasks[name], features, mean))
            head.rescale(sure, (1 - sure) * mean)
    return dict(heads)


@torch.no_grad()
def skill(head: LinearHead, data: TaskData, features: FrozenFeatures, constant: torch.Tensor) -> float:
    """Of the loss on dev that the scores `constant` [outputs] for every row have, the share that this head
    saves: 1 where it is right and sure of it, 0 where it is no better, or worse."""
    gathered, lengths = features.of(head, data.splits["dev"])
    targets = encoded_targets(data.task, data.splits["dev"])
    scores = head(gathered)
    told = float(head.loss(scores, targets, lengths))
    guessed = float(head.loss(constant.expand_as(scores), targets, lengths))
    return max(0.0, 1 - told / guessed) if guessed > 0 else 0.0
