"""Steps of several tasks on one backbone, and their gradients by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.backbone.running import Batch, ImageBatch

ROWS = (3, 1, 0, 4)
LENGTHS = (7, 1, 12, 7, 3, 12, 1, 20)


def text_batch(seed: int = 0) -> RaggedBatch:
    generator = np.random.default_rng(seed)
    return RaggedBatch([Encoded(generator.integers(0, 97, length)) for length in LENGTHS])


def losses_of(
    output: torch.Tensor, batch: Batch, rows: Sequence[int] = ROWS, seed: int = 1
) -> list[torch.Tensor]:
    """A loss a task on its slice of the output [N, width], no two alike."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    per_row = [len(output) // len(batch)] * len(batch) if isinstance(batch, ImageBatch) else batch.lengths
    sizes = [sum(per_row[start:end]) for start, end in itertools.pairwise(np.cumsum([0, *rows]))]
    parts = (target * output.tanh()).split(sizes)
    return [scale * part.sum() for scale, part in enumerate(parts, 1)]


def by_brute_force(
    backbone: Backbone, batch: Batch, rows: Sequence[int] = ROWS, read: str = "output"
) -> dict[str, torch.Tensor]:
    """Gradients [T, ...] of the trained parameters, one backward pass a task over the plain graph."""
    losses = losses_of(backbone.run(batch, [read])[read], batch, rows)
    named = {name: p for name, p in backbone.model.named_parameters() if p.requires_grad}
    found = [
        torch.autograd.grad(loss, [*named.values()], retain_graph=True, allow_unused=True) for loss in losses
    ]
    stacked = {}
    for at, (name, parameter) in enumerate(named.items()):
        each = [torch.zeros_like(parameter) if task[at] is None else task[at] for task in found]
        stacked[name] = torch.stack(each)
    return stacked
