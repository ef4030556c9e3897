"""Rows with what is asked of them: how well they answer under a change, and a change learned from that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from taskheads.attention.changed import Changing
from taskheads.attention.measures import Measure
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import pool
from taskheads.edits.edited import frozen

# Batches, each with the measure of its rows; the higher the better.
Asked = Mapping[RaggedBatch, Measure]


def last_vectors(backbone: Backbone, batch: RaggedBatch, changes: Changes | None = None) -> torch.Tensor:
    """The backbone's output at the last token of each row [rows, D]."""
    return pool(backbone.run(batch, ["output"], changes)["output"], batch, "last")


def answered(backbone: Backbone, asked: Asked, changing: Changing | None = None) -> torch.Tensor:
    """The measure of every row at its last token, batch by batch [rows]; with gradients, if there are any."""
    found = []
    for batch, measure in asked.items():
        changes = None if changing is None else changing(batch, [0] * len(batch))
        found.append(measure(last_vectors(backbone, batch, changes)))
    return torch.cat(found)


def best_of(
    backbone: Backbone, asked: Asked, candidates: Iterable[tuple[float, Changing]]
) -> tuple[float, float]:
    """Of changes with a number each, the number of that one under which the mean measure is highest, the
    first of equals, and that mean."""
    best = (float("nan"), -float("inf"))
    with torch.inference_mode():
        for number, changing in candidates:
            mean = float(answered(backbone, asked, changing).mean())
            best = (number, mean) if mean > best[1] else best
    return best


def descend(
    backbone: Backbone,
    parameters: Sequence[torch.Tensor],
    loss: Callable[[], torch.Tensor],
    *,
    steps: int,
    lr: float,
) -> list[float]:
    """Change a few numbers in place, by Adam, so that a loss falls; no weight of the backbone has a gradient.

    parameters: leaves that ask for a gradient. Returns the loss before each step.
    """
    optimiser = torch.optim.Adam(parameters, lr=lr)
    losses = []
    with frozen(backbone), torch.enable_grad():
        for _ in range(steps):
            now = loss()
            optimiser.zero_grad()
            now.backward()
            optimiser.step()
            losses.append(float(now.detach()))
    return losses
