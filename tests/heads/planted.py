"""Tasks and features made up for a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from taskheads.backbone.reads import Read
from taskheads.tasks.labels import is_bio
from taskheads.tasks.metrics import default_metric
from taskheads.tasks.task import Examples, Task

MEAN, WORDS = Read("output", "mean"), Read("output", "words")


def make_task(
    kind: str, labels: Sequence[Any] = (), *, name: str = "", metric: str | None = None, **options: Any
) -> Task:
    """A task on the columns "text" (and "other"), with the kind's own metric."""
    inputs = ("text", "other") if kind in ("pair", "embed") else ("text",)
    judged = "similarity" if kind == "pair" and not labels else kind
    flat = kind == "tag" and not is_bio(map(str, labels))
    label = None if kind == "embed" else "label"
    return Task(
        name or kind, kind, inputs, label, metric or default_metric(judged, flat), tuple(labels), options
    )


def make_examples(*inputs: Sequence[Any], targets: Sequence[Any] | None = None) -> Examples:
    n = len(inputs[0])
    return Examples(
        tuple(map(list, inputs)),
        list(targets) if targets is not None else [None] * n,
        [("rows", i + 1) for i in range(n)],
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))
