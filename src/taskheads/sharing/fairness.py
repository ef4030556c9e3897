"""Balancers that share a step out fairly between tasks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from taskheads.methods import method
from taskheads.sharing.balancer import Balancer, GramianBalancer, State, from_torchjd, square_root


@method("mgda", family="sharing", paper="arXiv:1810.04650")
class MGDA(GramianBalancer):
    """Step along the shortest vector in the convex hull of the tasks' gradients.

    It lowers every task's loss, and is zero just where none can be lowered without raising another (Désidéri
    2012; Sener and Koltun 2018, Algorithm 2: Frank-Wolfe, at most `max_iters` steps).
    """

    peer = "MGDAWeighting"

    def __init__(self, n_tasks: int, epsilon: float = 0.001, max_iters: int = 100) -> None:
        super().__init__(n_tasks, epsilon=epsilon, max_iters=max_iters)


@method("imtl_g", family="sharing", paper="Liu et al. 2021, ICLR, Towards Impartial Multi-task Learning")
class IMTLG(GramianBalancer):
    """Step where the projections onto all tasks' unit gradients are equal; the weights sum to 1.

    Weights in proportion to pinv(G) d, G the Gramian and d the gradients' norms (Liu et al. 2021, section
    3.1; for dependent gradients as in Quinton and Rey 2024).
    """

    peer = "IMTLGWeighting"
    precision = torch.float32


@method("aligned_mtl", family="sharing", paper="arXiv:2305.19000")
class AlignedMTL(GramianBalancer):
    """Make the tasks' gradients orthogonal and equally long with the least change, and take the mean.

    The gradient matrix is replaced by the nearest one with condition number 1, scaled by the least singular
    value (`scale_mode` "min"; "median" and "rmse" are larger), so that no step is longer than it was
    (Senushkin et al. 2023, Algorithm 1).
    """

    peer = "AlignedMTLWeighting"
    precision = torch.float32

    def __init__(self, n_tasks: int, scale_mode: str = "min") -> None:
        super().__init__(n_tasks, scale_mode=scale_mode)


@method("fairgrad", family="sharing", paper="arXiv:2402.15638")
class FairGrad(Balancer):
    """Step of the α-fair shares of progress: weights w with G w = w^(-1/α), G the Gramian.

    α = 1 is proportional fairness (Nash-MTL's), a large α max-min fairness; 2 is the paper's choice for most
    data (Ban and Ji 2024, equation 4).
    """

    def __init__(self, n_tasks: int, alpha: float = 2.0) -> None:
        super().__init__(n_tasks)
        self.alpha = alpha
        self._weighting = from_torchjd("FairGradWeighting", alpha=alpha)

    def _weigh(self, gramian: torch.Tensor, losses: torch.Tensor, present: list[int]) -> torch.Tensor:
        # The equation is solved at unit scale, where the solver starts; s²G has the weights s^(-2α/(1+α)) w.
        scale = gramian.trace()
        return self._weighting(gramian / scale) * scale ** (-self.alpha / (1 + self.alpha))


@method("nash_mtl", family="sharing", paper="arXiv:2202.01017")
class NashMTL(Balancer):
    """Step of the Nash bargaining solution: weights w with G w = 1 / w, G the Gramian.

    The direction does not change when a task's loss is multiplied by a number. Solved by a sequence of
    `optim_niter` convex problems, each from the last step's weights (Navon et al. 2022, Algorithm 1), on the
    Gramian at norm 1; a step longer than `max_norm` is cut to it.
    """

    def __init__(self, n_tasks: int, max_norm: float = 1.0, optim_niter: int = 20) -> None:
        super().__init__(n_tasks)
        self._last = torch.ones(n_tasks, dtype=torch.float64)
        self.max_norm = max_norm

        @cache  # setting a problem up takes longer than solving it
        def solver(n_present: int) -> Any:
            return from_torchjd("NashMTL", n_tasks=n_present, max_norm=max_norm, optim_niter=optim_niter)

        solver(n_tasks)
        self._solver = solver

    def _weigh(self, gramian: torch.Tensor, losses: torch.Tensor, present: list[int]) -> torch.Tensor:
        if len(present) == 1:  # torchjd cannot set the problem up; at norm 1 its solution is 1
            norm = float(gramian.sqrt())
            return gramian.new_full((1,), self.max_norm / norm if norm > self.max_norm > 0 else 1.0)
        weighting = self._solver(len(present)).weighting
        weighting.prvs_alpha = self._last[present].numpy()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are solving a parameterized problem")
            weights = weighting(square_root(gramian))
        self._last[present] = torch.from_numpy(weighting.prvs_alpha).double()
        return weights

    def state_dict(self) -> State:
        return {"last": self._last.clone()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._last = state["last"].clone()
