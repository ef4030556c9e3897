"""The heads that training begins with: solved on the frozen backbone."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.heads import Head, LinearHead, head_for
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import TaskData
from taskheads.training.candidates import single_candidates
from taskheads.training.every_task import for_every_task
from taskheads.training.frozen import fit_head

# How sure a head is, in terms of the solved one, when a backbone begins to be tuned under it. On the tasks of
# `benchmarks/joint.py` less (0.1) and more (1) end worse.
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
    """These heads, those of them that give probabilities with scores `_SURE` times as far from the mean that
    they give to train.

    A solved head is right about nearly all rows that it was solved on, and leaves a backbone that is tuned
    under it little to learn; one that is less sure makes it learn more (Ren et al. 2023, arXiv:2302.05779).
    """
    for name, head in heads.items():
        if isinstance(head, LinearHead) and head.curvature is not None:
            gathered, _ = features.of(head, tasks[name].splits["train"])
            head.rescale(_SURE, (1 - _SURE) * head(gathered).mean(0))
    return dict(heads)
