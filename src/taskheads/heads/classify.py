"""One label of several: softmax over a linear map."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy, one_hot

from taskheads.heads.head import Decisions, picked
from taskheads.heads.linear import LinearHead
from taskheads.methods import method


class ClassifyHead(LinearHead):
    """Multinomial logistic regression on the features; probabilities calibrated by a temperature."""

    kind = "classify"

    @property
    def curvature(self) -> float:
        return 0.1 / self.outputs

    def objective(
        self, scores: torch.Tensor, targets: torch.Tensor, extra: Any = (), lengths: Any = None
    ) -> torch.Tensor:
        return cross_entropy(scores, targets)

    def as_numbers(self, targets: torch.Tensor) -> torch.Tensor:
        return one_hot(targets, self.outputs).to(torch.float32)

    def calibrate(self, scores: torch.Tensor, targets: torch.Tensor, lengths: Any = None) -> float:
        factor = temperature(scores, targets)
        self.rescale(factor)
        return factor

    def decide(self, scores: torch.Tensor, lengths: Any = None) -> Decisions:
        probability = scores.softmax(-1).numpy()
        return Decisions(probability.argmax(1), probability)

    def answers(self, decisions: Decisions, *, scores: bool = False) -> list[dict[str, Any]]:
        return picked("label", self.task.labels, decisions, scores=scores)


@method(
    "temperature_scaling", family="trust", paper="arXiv:1706.04599", applies_to=("classify", "pair", "tag")
)
def temperature(scores: torch.Tensor, targets: torch.Tensor) -> float:
    """Calibrate probabilities by one number: the factor 1 / T on the scores [n, C] under which the targets
    [n] of rows not trained on are likeliest. No answer changes.
    """
    if not len(targets):
        return 1.0

    def unlikely(log_factor: float) -> float:
        return float(cross_entropy(scores * float(np.exp(log_factor)), targets))

    return float(np.exp(minimize_scalar(unlikely, bounds=(-5.0, 5.0), method="bounded").x))
