"""A backbone that is a table: what it computes of a text or a word is planted by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from taskheads.backbone.features import Words
from taskheads.backbone.reads import Read
from taskheads.heads import head_for
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import Examples, Task, TaskData
from taskheads.training.candidates import candidates
from tests.heads.planted import make_examples

Vector = Callable[[str, str], torch.Tensor]


class Table:
    """Vectors by site and text (or word). `asked` counts how often each form's items were computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, width: int, vector: Vector, layers: int = 2) -> None:
        self.width, self.vector = width, vector
        self.asked: list[tuple[str, int]] = []
        self.backbone: Any = SimpleNamespace(width=width, n_layers=layers, causal=False)
        monkeypatch.setattr("taskheads.model.features.extract", self._extract)

    def features(self, *data: TaskData) -> FrozenFeatures:
        needs = [
            (request, examples)
            for each in data
            for examples in each.splits.values()
            for request in head_for(each.task).requests_of(each.task)
        ]
        reads = lambda form: sorted({r for c in candidates(self.backbone, form) for r in c})  # noqa: E731
        return FrozenFeatures(self.backbone, needs, reads)

    def _extract(
        self, backbone: Any, form: str, items: Sequence, reads: Iterable[Read], **_: Any
    ) -> dict[Read, torch.Tensor | Words]:
        self.asked.append((form, len(items)))
        found: dict[Read, torch.Tensor | Words] = {}
        for read in reads:
            if read.of_words:
                words = [self.vector(read.site, word) for row in items for word in row]
                found[read] = Words(torch.stack(words), [len(row) for row in items])
            else:
                texts = [item if isinstance(item, str) else "|".join(item) for item in items]
                found[read] = torch.stack([self.vector(read.site, text) for text in texts])
        return found


def split_data(
    task: Task, *columns: Sequence[Any], targets: Sequence[Any] | None = None, dev: int = 80, test: int = 80
) -> TaskData:
    """The last rows are test, those before them dev, the others train."""
    whole = make_examples(*columns, targets=targets)
    n = len(whole)
    ends = {"train": (0, n - dev - test), "dev": (n - dev - test, n - test), "test": (n - test, n)}
    return TaskData(task, {name: part(whole, *where) for name, where in ends.items()})


def part(examples: Examples, start: int, stop: int) -> Examples:
    return Examples(
        tuple(column[start:stop] for column in examples.inputs),
        examples.targets[start:stop],
        examples.sources[start:stop],
    )
