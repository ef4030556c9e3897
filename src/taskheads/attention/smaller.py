"""A model of many tasks on fewer attention heads: those that its tasks can do without are cut out."""

from __future__ import annotations

import copy

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.pruning import pruned, weakest
from taskheads.attention.scores import HeadScores
from taskheads.attention.usage import shares
from taskheads.attention.which import AttentionHead
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cache import FeatureCache
from taskheads.model.features import Progress
from taskheads.model.model import Model
from taskheads.tasks.suite import Suite
from taskheads.training.solving import solve


def smaller(model: Model, heads: AttentionHeads, importance: HeadScores, keep: float) -> Model:
    """The model on a share `keep` of its attention heads, without those that are `needed_least`. The task
    heads are copies; `refit` solves them anew.

    Raises as `taskheads.attention.pruning.pruned` and `weakest` do."""
    backbone = pruned(heads, needed_least(heads, importance, keep))
    return Model(backbone, copy.deepcopy(model.heads), copy.deepcopy(model.card))


def needed_least(heads: AttentionHeads, importance: HeadScores, keep: float) -> tuple[AttentionHead, ...]:
    """The attention heads that go where a share `keep` stays: those of the lowest importance summed over
    tasks, each task's as shares of its whole."""
    return weakest(heads, shares(importance), keep)


def refit(
    model: Model, suite: Suite, cache: FeatureCache | None = None, progress: Progress | None = None
) -> None:
    """Solve the head of each task anew on the model's backbone as it is, and judge it."""
    seed = model.card["seed"]
    solve(model.backbone, suite, seed=seed, cache=cache, progress=progress).put_into(model)


def parameters(backbone: Backbone) -> int:
    """How many numbers its weights are."""
    return sum(each.numel() for each in backbone.model.parameters())
