"""Balancers that keep one task's step from undoing another's."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from taskheads.methods import method
from taskheads.sharing.balancer import Balancer, GramianBalancer, State, from_torchjd, square_root


@method("pcgrad", family="sharing", paper="arXiv:2001.06782")
class PCGrad(GramianBalancer):
    """Project each task's gradient off those of the other tasks which it conflicts with, and sum up.

    For every task i and the others j in random order: where gᵢ · gⱼ < 0, gᵢ loses its component along gⱼ
    (Yu et al. 2020, "Gradient Surgery", Algorithm 1). The order is drawn from torch's generator.
    """

    peer = "PCGradWeighting"


@method("gradvac", family="sharing", paper="arXiv:2010.05874")
class GradVac(Balancer):
    """Turn each task's gradient towards the others until their cosines are what they usually are, and sum up.

    Where the cosine of gᵢ and gⱼ is below its moving average, gᵢ gets as much of gⱼ as brings it up to that
    (Wang et al. 2021, "Gradient Vaccine", equations 2 and 3). The averages start at 0, where it is PCGrad's
    condition, and move by `beta` in each step. The order is drawn from torch's generator.
    """

    def __init__(self, n_tasks: int, beta: float = 0.5) -> None:
        super().__init__(n_tasks)
        self._weighting = from_torchjd("GradVacWeighting", beta=beta)
        self._usual = torch.zeros(n_tasks, n_tasks, dtype=torch.float64)

    def _weigh(self, gramian: torch.Tensor, losses: torch.Tensor, present: list[int]) -> torch.Tensor:
        at = torch.tensor(present)
        pairs = at[:, None], at[None, :]
        # torchjd forgets its averages when the number of tasks changes: they are put in and taken out here.
        self._weighting._phi_t = self._usual[pairs].clone()
        self._weighting._state_key = (len(present), gramian.dtype)
        weights = self._weighting(gramian / gramian.trace())
        self._usual[pairs] = self._weighting._phi_t
        return weights

    def state_dict(self) -> State:
        return {"usual": self._usual.clone()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._usual = state["usual"].clone()


@method("cagrad", family="sharing", paper="arXiv:2110.14048")
class CAGrad(GramianBalancer):
    """Step where the task that gains least gains most, within a ball around the mean gradient.

    maxₐ minᵢ gᵢ · d  with  |d - g₀| ≤ c |g₀|,  g₀ the mean gradient (Liu et al. 2021, Algorithm 1). c = 0 is
    the mean, a large c is MGDA's direction; 0.4 is what the paper uses most.
    """

    peer = "CAGradWeighting"

    def __init__(self, n_tasks: int, c: float = 0.4) -> None:
        super().__init__(n_tasks, c=c)


@method("upgrad", family="sharing", paper="arXiv:2406.16232")
class UPGrad(GramianBalancer):
    """Project each task's gradient to where it conflicts with no task, and take the mean.

    The projection is onto the dual cone {d : gⱼ · d ≥ 0 for all j}, so that the mean conflicts with no task
    either (Quinton and Rey 2024, "Jacobian Descent", equation 3), and it keeps its linearity under scaling.
    """

    peer = "UPGradWeighting"


@method("dualproj", family="sharing", paper="arXiv:1706.08840")
class DualProj(GramianBalancer):
    """Project the mean gradient to the nearest direction that conflicts with no task.

    The projection onto {d : gⱼ · d ≥ 0 for all j} (Lopez-Paz and Ranzato 2017, GEM, equation 11).
    """

    peer = "DualProjWeighting"


@method("config", family="sharing", paper="arXiv:2408.11104")
class ConFIG(Balancer):
    """Step where all tasks' gradients have the same cosine, as far as the sum of the projections onto it.

    The direction is pinv(units) 1, units [T, n] holding the gradients at length 1, and the length is the sum
    of gᵢ · direction (Liu et al. 2024, "ConFIG", equation 2). Rows of any rotation will do, so it is
    taken on a square root of the Gramian.
    """

    def _weigh(self, gramian: torch.Tensor, losses: torch.Tensor, present: list[int]) -> torch.Tensor:
        rows = square_root(gramian)
        found = from_torchjd("ConFIG")(rows)
        return torch.linalg.lstsq(rows.T, found[:, None], driver="gelsd").solution[:, 0]
