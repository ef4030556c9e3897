"""A number: least squares."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import mse_loss

from taskheads.heads.head import Decisions
from taskheads.heads.linear import LinearHead


class RegressHead(LinearHead):
    """Linear regression of the target on the features."""

    kind = "regress"

    @property
    def outputs(self) -> int:
        return 1

    def objective(
        self, scores: torch.Tensor, targets: torch.Tensor, extra: Any = (), lengths: Any = None
    ) -> torch.Tensor:
        return 0.5 * mse_loss(scores[:, 0], targets.to(scores.dtype))

    def as_numbers(self, targets: torch.Tensor) -> torch.Tensor:
        return targets[:, None].to(torch.float32)

    def decide(self, scores: torch.Tensor, lengths: Any = None) -> Decisions:
        return Decisions(scores[:, 0].double().numpy())

    def answers(self, decisions: Decisions, *, scores: bool = False) -> list[dict[str, Any]]:
        return [{"value": round(float(value), 6)} for value in decisions.predicted]
