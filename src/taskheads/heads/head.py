"""What every task head is: it asks for reads of the backbone, turns them into scores, scores into answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from taskheads.backbone.reads import Read
from taskheads.tasks.metrics import Metric, metric_named
from taskheads.tasks.task import Task

Form = Literal["text", "pair", "words"]


@dataclass(frozen=True)
class Request:
    """One pass of the backbone that a head needs.

    `at` says which of the task's input columns it takes, `form` how the backbone is given them: a text, two
    texts as one row, or a row of words.
    """

    at: tuple[int, ...]
    form: Form


@dataclass
class Decisions:
    """What a head says about some rows, as the metrics take it: `predicted`, and `scores` where there are."""

    predicted: Any
    scores: Any = None


class Head(nn.Module):
    """Base of the task heads; one subclass for each kind of task.

    A head is made for a task, the reads it stands on, and the backbone's width. Its life is
    `gather` (reads → features) → `forward` (features → scores) → `decide` or `answers`; `loss` compares
    scores with encoded targets, for whoever trains it.

    Class attributes
    ----------------
    kind: the metrics' name of the kind (`pair` with numbers is "similarity").
    additive: whether `loss` is a mean over rows or words, so that it may be computed in parts.
    """

    kind: str
    additive: bool = True

    def __init__(self, task: Task, reads: Sequence[Read], width: int) -> None:
        super().__init__()
        self.task, self.reads, self.width = task, tuple(reads), width

    @classmethod
    def requests_of(cls, task: Task) -> list[Request]:
        """The passes that a task of this kind needs, in the order in which `gather` takes their features."""
        return [Request((0,), "text")]

    @property
    def requests(self) -> list[Request]:
        return self.requests_of(self.task)

    @property
    def features(self) -> int:
        """Width d of what `gather` returns."""
        return len(self.reads) * self.width

    @property
    def metric(self) -> Metric:
        return metric_named(self.task.metric, self.kind)

    def gather(self, found: Sequence[Mapping[Read, torch.Tensor]]) -> torch.Tensor:
        """The features of n rows, [n, d], from the reads of each request, each [n, width]."""
        return torch.cat([found[0][read] for read in self.reads], dim=-1)

    def loss(
        self, scores: torch.Tensor, targets: torch.Tensor, lengths: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Mean loss of scores [n, outputs] against encoded targets (`labels.encode`, as tensors; of words end
        to end, with the rows' `lengths`, where scores are of words)."""
        raise NotImplementedError

    def decide(self, scores: torch.Tensor, lengths: Sequence[int] | None = None) -> Decisions:
        """Decisions from scores. `lengths` are the words of each row, where scores are of words."""
        raise NotImplementedError

    def answers(self, decisions: Decisions, *, scores: bool = False) -> list[dict[str, Any]]:
        """One JSON-able answer a row; with `scores`, the probability of every label beside it."""
        raise NotImplementedError


def picked(key: str, labels: Sequence[Any], decisions: Decisions, *, scores: bool) -> list[dict[str, Any]]:
    """The answers of a head that picks one of its labels: it, under `key`, and its probability; with
    `scores`, that of every label."""
    best = decisions.predicted
    sure = decisions.scores[np.arange(len(best)), best]
    answers: list[dict[str, Any]] = [
        {key: labels[label], "score": round(score, 6)}
        for label, score in zip(best.tolist(), sure.tolist(), strict=True)
    ]
    if scores:
        for answer, row in zip(answers, decisions.scores, strict=True):
            answer["scores"] = probabilities(labels, row)
    return answers


def probabilities(labels: Sequence[Any], row: Any) -> dict[str, float]:
    """{label: probability} of one row, highest first."""
    pairs = sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1])
    return {str(label): round(float(value), 6) for label, value in pairs}
