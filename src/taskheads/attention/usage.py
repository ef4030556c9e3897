"""Which tasks of a model use which attention heads: how much each task's loss hangs on each of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from taskheads.attention.changing import site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores, Mean
from taskheads.backbone.changes import Change, Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edited import frozen
from taskheads.errors import ConfigError
from taskheads.heads import EmbedHead, Head
from taskheads.model.features import Progress
from taskheads.model.model import Model
from taskheads.tasks.suite import Suite
from taskheads.tasks.task import Examples
from taskheads.training.joint.batch import MixedBatch, Part
from taskheads.training.joint.rows import TaskRows, encoded_rows

# Tokens of a pass, which keeps all that the way back needs.
_AT_ONCE = 4096


def heads_of(model: Model) -> AttentionHeads:
    """The attention heads that all tasks of a model stand on.

    Raises ConfigError where a task has weights of its own in the backbone, so that its attention heads are
    not those of the others, and BackboneError where attention heads cannot be reached."""
    if not model.heads:
        raise ConfigError("the model has no task, so that none uses an attention head")
    for name in model.heads:
        own = "a branch" if name in model.branch_of else "an edit" if name in model.edits else ""
        if own:
            raise ConfigError(
                f"task {name!r} reads the backbone through {own} of its own, so that its attention heads are "
                "not those of the other tasks; fit the model with --tune frozen to see what they share"
            )
    return AttentionHeads(model.backbone)


def asked_examples(model: Model, suite: Suite, count: int) -> dict[str, Examples]:
    """Rows to ask each task about: at most `count` of its dev rows, evenly spaced, or of its test rows where
    it has no dev rows. Tasks without either are left out.

    Raises ConfigError where that is all of them."""
    found = {}
    for name in model.heads:
        splits = suite.tasks[name].splits if name in suite.tasks else {}
        examples = next((splits[split] for split in ("dev", "test") if splits and len(splits[split])), None)
        if examples is not None:
            found[name] = examples.thinned(count)
    if not found:
        names = ", ".join(model.heads)
        raise ConfigError(f"that data has no dev or test rows of a task of this model ({names})")
    return found


def asked_rows(model: Model, suite: Suite, count: int) -> dict[str, TaskRows]:
    """The `asked_examples` as `encoded_rows`; raises as both do."""
    return encoded_rows(model, asked_examples(model, suite, count))


def importance(
    heads: AttentionHeads,
    task_heads: Mapping[str, Head],
    rows: Mapping[str, TaskRows],
    progress: Progress | None = None,
) -> HeadScores:
    """How much each task's loss hangs on every attention head [tasks, layers, heads], with standard errors
    over rows: the mean over the task's rows of |dL/dξ|, L the row's loss by the task's own head, and ξ = 1 a
    gate on the attention head's output at all tokens of the row (of both texts, where it has two).

    A pass forward and one back for each task, in portions. What an attention head writes above all that the
    task reads has 0 exactly. L is the mean over words for `tag`; for `embed`, whose rows are told from each
    other, what the row's two texts do to the losses of all rows of the portion.

    Michel et al. 2019 (arXiv:1905.10650), equation 2, without the scaling by layers.
    """
    found = {}
    for done, (name, mine) in enumerate(rows.items()):
        if progress is not None:
            progress("attention heads", done, len(rows))
        mean = Mean(heads.shape)
        for chosen in _portions(mine.tokens):
            mean.add(gate_slopes(heads, task_heads[name], mine, chosen).abs())
        found[name] = mean.scores({"measured": "head importance"})
    if progress is not None:
        progress("attention heads", len(rows), len(rows))
    backbone = heads.backbone
    return HeadScores.stacked(
        found, measured="head importance", model=backbone.name, fingerprint=backbone.fingerprint
    )


def gate_slopes(heads: AttentionHeads, task_head: Head, rows: TaskRows, chosen: np.ndarray) -> torch.Tensor:
    """The gradient of each row's loss by a gate on every attention head [rows, layers, heads], for the
    `chosen` rows (shortest first); NaN for attention heads that are not there. No weight has a gradient."""
    name = task_head.task.name
    batch = MixedBatch({name: rows}, {name: chosen})
    dtype = next(task_head.parameters()).dtype
    gates = torch.ones(len(batch.ragged), *heads.shape, dtype=dtype, device=heads.backbone.device)
    gates.requires_grad_()
    changes = _gated(heads, batch.ragged, gates)
    with frozen(heads.backbone), torch.enable_grad():
        scores = batch.scores(
            lambda ragged, sites: heads.backbone.run(ragged, sites, changes), {name: task_head}
        )[name]
        loss = _sum_of_losses(task_head, scores, batch.parts[name])
        (slopes,) = torch.autograd.grad(loss, gates, materialize_grads=True, allow_unused=True)
    for layer, count in enumerate(heads.counts):
        slopes[:, layer, count:] = torch.nan
    return torch.stack([slopes[places] for places in batch.parts[name].rows]).sum(0)


def shares(scores: HeadScores) -> HeadScores:
    """Scores [tasks, layers, heads] of 0 and more as shares of their sum over the attention heads of a task,
    so that tasks with losses of any size count alike."""
    sums = scores.values.nansum((1, 2), keepdim=True)
    sums = torch.where(sums > 0, sums, 1.0)
    return HeadScores(scores.values / sums, scores.error / sums, scores.manifest, scores.tasks)


def used(scores: HeadScores, part: float = 0.5) -> torch.Tensor:
    """Bool [tasks, layers, heads]: for each task the fewest attention heads whose shares make up this part of
    the whole; none for a task that hangs on no attention head."""
    flat = shares(scores).values.nan_to_num().flatten(1)
    values, order = flat.sort(dim=1, descending=True, stable=True)
    before = values.cumsum(1) - values
    chosen = (before < part) & (values > 0)
    return torch.zeros_like(chosen).scatter(1, order, chosen).view(scores.values.shape)


def _gated(heads: AttentionHeads, batch: RaggedBatch, gates: torch.Tensor) -> Changes:
    """Every attention head's output times the gate of its row."""

    def at(layer: int) -> Change:
        mine = gates[:, layer, : heads.counts[layer]]
        return lambda z: z * mine[batch.row_of_token.to(z.device), :, None].to(z.dtype)

    return Changes(sites={site_of(layer): at(layer) for layer in range(heads.n_layers)})


def _sum_of_losses(head: Head, scores: torch.Tensor, part: Part) -> torch.Tensor:
    """Over rows, each with a loss of its own, where the head tells none from the others."""
    targets = part.targets.to(scores.device)
    if isinstance(head, EmbedHead):
        return head.loss(scores) * part.count
    sizes = part.lengths or [1] * part.count
    losses = [
        head.loss(mine, truth, part.lengths and [size])
        for mine, truth, size in zip(scores.split(sizes), targets.split(sizes), sizes, strict=True)
    ]
    return torch.stack(losses).sum()


def _portions(tokens: np.ndarray) -> list[np.ndarray]:
    """The rows in portions of so many tokens."""
    portion = (np.cumsum(tokens) - 1).clip(0) // _AT_ONCE
    return [np.flatnonzero(portion == number) for number in np.unique(portion)]
