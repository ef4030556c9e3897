"""GradNorm: weights of the losses by which all tasks train at similar rates."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from taskheads.methods import method
from taskheads.sharing.balancer import Balancer, State

# The paper does not bound the weights, but a weight below zero would train its task backwards.
_LEAST = 1e-4
# In place of a loss of zero, which nothing can be divided by.
_TINY = 1e-12


@method("gradnorm", family="sharing", paper="arXiv:1711.02257")
class GradNorm(Balancer):
    """Weigh tasks so that those which have learned less, relative to their first loss, get longer gradients.

    With norms nᵢ of the gradients, weights wᵢ, and the relative inverse training rate rᵢ = (Lᵢ / Lᵢ(0)) over
    its mean, the weights take a step of Adam (`rate`) down Σ |wᵢ nᵢ - mean(w n) rᵢ^α|, the second term held
    constant, and are scaled to sum to the number of tasks (Chen et al. 2018, section 3). α is the pull
    towards equal rates: 1.5 is the paper's, 0 makes norms equal. The gradients are those of all shared
    parameters; the paper takes the last shared layer's, which `gradnorm_at_representation` is nearer to.
    """

    def __init__(self, n_tasks: int, alpha: float = 1.5, rate: float = 0.025) -> None:
        super().__init__(n_tasks)
        self.alpha = alpha
        self._weights = torch.ones(n_tasks, dtype=torch.float64)
        self._first = torch.full((n_tasks,), torch.nan, dtype=torch.float64)
        self._adam = torch.optim.Adam([self._weights], lr=rate)

    def _weigh(self, gramian: torch.Tensor, losses: torch.Tensor, present: list[int]) -> torch.Tensor:
        self._first[present] = torch.where(self._first[present].isnan(), losses, self._first[present])
        norms = gramian.diagonal().sqrt()
        remaining = losses / self._first[present].clamp(min=_TINY)
        weighted = self._weights[present] * norms
        target = weighted.mean() * (remaining / remaining.mean().clamp(min=_TINY)) ** self.alpha
        self._weights.grad = torch.zeros_like(self._weights)
        self._weights.grad[present] = (weighted - target).sign() * norms
        self._adam.step()
        self._weights.clamp_(min=_LEAST)
        self._weights *= self.n_tasks / self._weights.sum()
        return self._weights[present].clone()

    def state_dict(self) -> State:
        moments = self._adam.state_dict()["state"].get(0, {})
        return {"weights": self._weights.clone(), "first_losses": self._first.clone()} | {
            f"adam.{name}": value.clone() for name, value in moments.items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._weights.copy_(state["weights"])
        self._first.copy_(state["first_losses"])
        moments = {name[5:]: value.clone() for name, value in state.items() if name.startswith("adam.")}
        groups = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict({"state": {0: moments} if moments else {}, "param_groups": groups})
