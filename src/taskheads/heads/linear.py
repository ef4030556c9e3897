"""Heads that are one linear map of their features, and what a solver needs to know of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from taskheads.backbone.reads import Read
from taskheads.heads.head import Head
from taskheads.tasks.task import Task


class LinearHead(Head):
    """scores = features @ weight + bias, weight [d, outputs].

    Class attributes
    ----------------
    biased: whether the scores have a bias (thresholds make one redundant).
    """

    biased: bool = True

    def __init__(self, task: Task, reads: Sequence[Read], width: int) -> None:
        super().__init__(task, reads, width)
        self.weight = nn.Parameter(torch.zeros(self.features, self.outputs))
        self.bias = nn.Parameter(torch.zeros(self.outputs))

    @property
    def outputs(self) -> int:
        return len(self.task.labels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, features, self.weight)

    @property
    def curvature(self) -> float | None:
        """About the second derivative of the loss in a score: for a logistic loss what it is at most, for a
        softmax a tenth of what it is where all answers are equally likely, as many rows are told well.

        None when least squares *is* the loss, so that there is nothing to solve beyond it.
        """
        return None

    @property
    def extra(self) -> list[nn.Parameter]:
        """Parameters of the loss beside weight and bias, in the order in which `objective` takes them."""
        return [each for name, each in self.named_parameters() if name not in ("weight", "bias")]

    def objective(
        self,
        scores: torch.Tensor,
        targets: torch.Tensor,
        extra: Sequence[torch.Tensor],
        lengths: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """Mean loss as a function of the scores and of `extra`: convex in both."""
        raise NotImplementedError

    def loss(
        self, scores: torch.Tensor, targets: torch.Tensor, lengths: Sequence[int] | None = None
    ) -> torch.Tensor:
        if not len(targets):  # the mean of no rows: nothing to learn, and no NaN that spreads to other tasks
            return scores.sum()
        return self.objective(scores, targets, self.extra, lengths)

    def as_numbers(self, targets: torch.Tensor) -> torch.Tensor:
        """Targets as numbers [n, outputs], to which least squares fits the scores."""
        raise NotImplementedError

    @property
    def plain(self) -> list[int]:
        """Features that make a sensible head by themselves, where few rows leave no way to do better."""
        return []

    def tune(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Set what decisions need beyond the scores (thresholds) on rows not trained on; by default nothing.

        Returns the scores that the tuned head gives these rows. Runs for every candidate, since without it
        the task's metric would not be comparable.
        """
        return scores

    def finish(self, targets: torch.Tensor, lengths: Sequence[int] | None = None) -> None:
        """Take from the targets of train what the scores do not hold; by default nothing."""

    def calibrate(
        self, scores: torch.Tensor, targets: torch.Tensor, lengths: Sequence[int] | None = None
    ) -> float:
        """Make the chosen head's probabilities honest on rows not trained on; by default nothing.

        Returns what the scores were multiplied by.
        """
        return 1.0

    def put(self, weight: torch.Tensor, bias: torch.Tensor, extra: Sequence[torch.Tensor] = ()) -> None:
        """Take over a solution."""
        with torch.no_grad():
            self.weight.copy_(weight)
            self.bias.copy_(bias)
            for mine, solved in zip(self.extra, extra, strict=False):
                mine.copy_(solved)

    def rescale(self, factor: float, shift: float | torch.Tensor = 0.0) -> None:
        """Replace the scores s by factor * s + shift."""
        with torch.no_grad():
            self.weight.mul_(factor)
            self.bias.mul_(factor).add_(shift)
