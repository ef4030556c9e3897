"""Merges that learn from the rows of the models' own tasks, through the heads that these models have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.errors import ConfigError
from taskheads.heads import Head
from taskheads.merging.learned.coefficients import AdaMerging, Atlas, SelfPositioning
from taskheads.merging.learned.learning import Loss, entropy
from taskheads.merging.learned.masks import ConcreteMerging
from taskheads.merging.learned.recipes import FromBase, FromStart, Masking, Recipe
from taskheads.merging.learned.statistics import empirical_fisher, input_grams
from taskheads.merging.tensors import Tensors
from taskheads.training.joint.batch import MixedBatch
from taskheads.training.joint.rows import TaskRows

_UNLABELLED = {"adamerging", "concrete_subspace_merging"}
# Of a model's rows, these many tell its statistics.
_ROWS_FOR_STATISTICS = 64


def learn(
    name: str,
    recipe: Recipe,
    base: Tensors,
    models: Sequence[Tensors],
    backbone: Backbone,
    heads: Mapping[str, Head],
    rows: Mapping[str, TaskRows],
) -> list[float]:
    """Learn how to merge, and leave the merged weights in `backbone`; the loss at each step.

    AdaMerging and Concrete merging make predictions sure and look at no label; aTLAS and Self Positioning
    lower the tasks' own losses. `rows` are train rows of each task, of which each step draws some.

    Raises ConfigError, with the task, where a method needs predicted labels and a task has none.
    """
    judged: dict[str, nn.Module] = dict(heads)
    if name in _UNLABELLED:
        judged = {task: _Unsure(head, name) for task, head in heads.items()}
    losses = [_loss(task, judged, rows[task], backbone, recipe) for task in heads]
    merging: Any
    if name == "adamerging":
        assert isinstance(recipe, FromStart)
        merging = AdaMerging(base, models, backbone.model, start=recipe.start)
    elif name == "atlas_anisotropic_task_vectors":
        assert isinstance(recipe, FromBase)
        merging = Atlas(base, models, backbone.model, start=recipe.start)
    elif name == "self_positioning":
        merging = SelfPositioning(base, models, backbone.model)
    else:
        assert isinstance(recipe, Masking)
        merging = ConcreteMerging(base, models, backbone.model, scale=recipe.scale, seed=recipe.seed)
    return merging.fit(losses, steps=recipe.steps, rate=recipe.rate)


def statistics_of(
    kind: str, backbone: Backbone, heads: Mapping[str, Head], rows: Mapping[str, TaskRows]
) -> dict[str, torch.Tensor]:
    """What Fisher ("fisher") or RegMean ("gram") needs of a model, from rows of its own tasks."""
    if kind == "gram":
        batches = (batch.ragged for batch in _some(rows, 8))
        return input_grams(backbone.model, batches, lambda _, batch: backbone.run(batch))
    losses = (sum(batch.losses(backbone.run, heads).values(), torch.zeros(())) for batch in _some(rows, 1))
    return empirical_fisher(dict(backbone.model.named_parameters()), losses)


def _some(rows: Mapping[str, TaskRows], size: int) -> Iterator[MixedBatch]:
    """The first rows of each task, `size` a batch."""
    for task, mine in rows.items():
        chosen = np.arange(min(len(mine), _ROWS_FOR_STATISTICS))
        for start in range(0, len(chosen), size):
            yield MixedBatch(rows, {task: chosen[start : start + size]})


def _loss(
    task: str, heads: Mapping[str, nn.Module], rows: TaskRows, backbone: Backbone, recipe: Recipe
) -> Loss:
    draw = np.random.default_rng([recipe.seed, *task.encode()])

    def loss(_: nn.Module) -> torch.Tensor:
        chosen = draw.choice(len(rows), min(recipe.rows, len(rows)), replace=False)
        batch = MixedBatch({task: rows}, {task: chosen})
        return batch.losses(backbone.run, heads)[task]  # type: ignore[arg-type]

    return loss


_SURENESS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "classify": entropy,
    "pair": entropy,
    "tag": entropy,
    "multilabel": lambda scores: entropy(torch.stack([scores, torch.zeros_like(scores)], -1)),
}


class _Unsure(nn.Module):
    """A head whose loss is the mean entropy of what it predicts."""

    def __init__(self, head: Head, method: str) -> None:
        super().__init__()
        if head.kind not in _SURENESS or not head.additive:
            raise ConfigError(
                f"{method} makes predicted labels sure, and the task {head.task.name!r} ({head.kind}) has "
                "none that stand alone"
            )
        self.head, self.reads, self.gather = head, head.reads, head.gather

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(features)

    def loss(self, scores: torch.Tensor, _targets: torch.Tensor, _lengths: Any = None) -> torch.Tensor:
        return _SURENESS[self.head.kind](scores)
