"""Small experts that move the logits of a large model, without a change of any weight."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from taskheads.errors import ConfigError
from taskheads.methods import method


@method(
    "dynamic_logit_fusion",
    family="merging",
    paper="arXiv:2406.15480",
    applies_to=("generate",),
    needs="a large model and small experts with the same vocabulary",
)
@dataclass(frozen=True)
class DynamicLogitFusion:
    """Dynamic logit fusion: what small experts have learned is added to a large model's logits,
    z = z_L + Σₜ αₜ (zₜ - z_S), with αₜ solved anew at every step of decoding (Fan et al. 2024).

    α is such that the fused distribution P is as far from the large model's as each expert is from the small
    base, and as far from the expert as the large model is from the small base: it minimises
    Σₜ (KL(P ‖ P_L) - KL(Pₜ ‖ P_S))² + (KL(P ‖ Pₜ) - KL(P_L ‖ P_S))². Of equal minima the smallest α.

    Parameters
    ----------
    highest: α is between 0 and this; 2 in the paper. steps: of the grid, which is then refined around its
        best point to `tolerance`.
    """

    highest: float = 2.0
    steps: int = 20
    tolerance: float = 1e-5

    def alphas(self, large: torch.Tensor, small: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        """[rows, tasks], from logits [rows, vocabulary] of the large and the small base and [tasks, rows,
        vocabulary] of the experts. Raises ConfigError for another shape, and for more experts than a grid is
        for (4)."""
        if large.shape != small.shape or experts.shape[1:] != large.shape:
            raise ConfigError("all models must have one vocabulary: their logits have not the same shape")
        if not 1 <= len(experts) <= 4:
            raise ConfigError(
                f"dynamic_logit_fusion searches a grid: it is for 1 to 4 experts, not {len(experts)}"
            )
        large, small, experts = large.double(), small.double(), experts.double()
        centre = torch.full((len(large), len(experts)), self.highest / 2, dtype=torch.float64)
        width, steps = self.highest / 2, self.steps if len(experts) < 3 else 8
        while True:
            points = self._grid(centre, width, steps)
            losses = torch.stack([self._loss(each, large, small, experts) for each in points])
            best = losses.argmin(0)
            centre = points[best, torch.arange(len(large))]
            if width * 2 / steps <= self.tolerance:
                return centre.float()
            width = 2 * width / steps * 1.5

    def fused(
        self, large: torch.Tensor, small: torch.Tensor, experts: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The fused logits [rows, vocabulary] of one step of decoding."""
        stacked = torch.stack(list(experts))
        alpha = self.alphas(large, small, stacked).to(large.dtype)
        return large + torch.einsum("rt,trv->rv", alpha, stacked - small)

    def _grid(self, centre: torch.Tensor, width: float, steps: int) -> torch.Tensor:
        """[points, rows, tasks]: evenly spaced around each row's centre, within the bounds."""
        offsets = torch.linspace(-width, width, steps + 1, dtype=torch.float64).tolist()
        grid = torch.tensor(list(itertools.product(offsets, repeat=centre.shape[1])), dtype=torch.float64)
        return (centre + grid[:, None]).clamp_(0, self.highest)

    @staticmethod
    def _loss(
        alpha: torch.Tensor, large: torch.Tensor, small: torch.Tensor, experts: torch.Tensor
    ) -> torch.Tensor:
        """[rows] for α [rows, tasks]."""
        fused = (large + torch.einsum("rt,trv->rv", alpha, experts - small)).log_softmax(-1)
        at_large, at_small, at_experts = (each.log_softmax(-1) for each in (large, small, experts))
        shift = divergence(fused, at_large) - divergence(at_experts, at_small)
        mirrored = divergence(fused, at_experts) - divergence(at_large, at_small)
        return (shift.square() + mirrored.square()).sum(0)


def divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL(first ‖ second) in nats, from log-probabilities [..., labels]."""
    return (first.exp() * (first - second)).sum(-1)
