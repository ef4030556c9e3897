"""Ordered levels: one score, cut by thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from taskheads.backbone.reads import Read
from taskheads.heads.head import Decisions, picked
from taskheads.heads.linear import LinearHead
from taskheads.methods import method
from taskheads.tasks.task import Task

_LEAST_FACTOR = 1e-3
_NEWTON_STEPS = 50


@method(
    "all_threshold_ordinal",
    family="heads",
    paper="Rennie and Srebro 2005, Loss functions for preference levels, IJCAI-MPRW; CORAL, arXiv:1901.07884",
    applies_to=("ordinal",),
)
class OrdinalHead(LinearHead):
    """All-threshold ordinal regression: one score [n, 1] and K - 1 thresholds for K levels, with
    P(level > k) = sigmoid(score - threshold_k), fitted by the sum over thresholds of the logistic loss.

    The minimiser has ordered thresholds (CORAL's rank consistency), so the levels' probabilities are not
    negative. The answer is the level whose expected distance is least, the median.
    """

    kind = "ordinal"
    biased = False

    def __init__(self, task: Task, reads: Sequence[Read], width: int) -> None:
        super().__init__(task, reads, width)
        self.thresholds = nn.Parameter(torch.arange(self.levels - 1, dtype=torch.float32) + 0.5)

    @property
    def levels(self) -> int:
        return len(self.task.labels)

    @property
    def outputs(self) -> int:
        return 1

    @property
    def curvature(self) -> float:
        return 0.25 * (self.levels - 1)

    def objective(
        self, scores: torch.Tensor, targets: torch.Tensor, extra: Any = (), lengths: Any = None
    ) -> torch.Tensor:
        return all_threshold_loss(scores, targets, extra[0])

    def as_numbers(self, targets: torch.Tensor) -> torch.Tensor:
        return targets[:, None].to(torch.float32)

    def tune(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Fit the scale of the score and the thresholds; only the direction of the weight is kept."""
        if not len(targets):
            return scores
        above = targets[:, None] > torch.arange(self.levels - 1)
        factor, thresholds = likeliest_cuts(scores[:, 0], above)
        self.rescale(factor)
        self.put(self.weight, self.bias, [thresholds.sort().values])
        return factor * scores

    def decide(self, scores: torch.Tensor, lengths: Any = None) -> Decisions:
        above = (scores - self.thresholds.detach()).sigmoid()
        edges = torch.cat([torch.ones_like(scores), above, torch.zeros_like(scores)], dim=1)
        return Decisions((above > 0.5).sum(1).numpy(), (edges[:, :-1] - edges[:, 1:]).numpy())

    def answers(self, decisions: Decisions, *, scores: bool = False) -> list[dict[str, Any]]:
        return picked("value", self.task.labels, decisions, scores=scores)


def all_threshold_loss(scores: torch.Tensor, targets: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the summed logistic losses of "is the level above k"; scores [n, 1]."""
    above = targets[:, None] > torch.arange(len(thresholds), device=targets.device)
    return binary_cross_entropy_with_logits(scores - thresholds, above.to(scores.dtype)) * len(thresholds)


def likeliest_cuts(scores: torch.Tensor, above: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The positive factor and the thresholds [m] under which P(above) = sigmoid(factor * score - threshold)
    makes bools `above` [n, m] likeliest, given scores [n]; with m = 1 this is Platt scaling. In float64.

    Targets are drawn in as in Platt 1999 (Probabilistic outputs for support vector machines), which keeps
    both finite; the minimum is found by Newton steps, halved until they lower the loss (Lin, Lin and Weng
    2007, A note on Platt's probabilistic outputs, Machine Learning 68).
    """
    n, scores = len(scores), scores.double()
    mean, spread = scores.mean(), scores.std(correction=0) + 1e-12
    x = ((scores - mean) / spread)[:, None]
    yes = above.sum(0)
    wanted = torch.where(above, (yes + 1) / (yes + 2), 1 / (n - yes + 2)).double()
    # The best thresholds beside a factor of zero: the log odds of their shares.
    level = -wanted.mean(0).logit()
    free = torch.cat([x.new_zeros(1), level])

    def unlikely(free: torch.Tensor) -> tuple[float, torch.Tensor]:
        apart = free[0] * x - free[1:]
        return float((softplus(apart) - wanted * apart).sum()) / n, apart.sigmoid()

    loss, said = unlikely(free)
    for _ in range(_NEWTON_STEPS):
        miss, weight = (said - wanted) / n, said * (1 - said) / n
        gradient = torch.cat([(miss * x).sum()[None], -miss.sum(0)])
        curvature = torch.cat([(weight * x * x).sum()[None], weight.sum(0)]).add_(1e-12).diag()
        curvature[0, 1:] = curvature[1:, 0] = -(weight * x).sum(0)
        step = torch.linalg.solve(curvature, gradient)
        while (tried := unlikely(free - step))[0] > loss and step.abs().max() > 1e-9:
            step = step / 2
        free, less = free - step, loss - tried[0]
        loss, said = tried
        if less < 1e-9:
            break
    factor = float(free[0] / spread)
    if factor < _LEAST_FACTOR:  # zero or below would lose or turn round the order
        return _LEAST_FACTOR, level + _LEAST_FACTOR * mean
    return factor, free[1:] + factor * mean
