"""Gradient sign dropout: one sign for every weight, drawn by how much of the gradient has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from taskheads.methods import method
from taskheads.sharing.balancer import Balancer, from_torchjd
from taskheads.sharing.gradients import TaskGradients


@method("graddrop", family="sharing", paper="arXiv:2010.06808")
class GradDrop(Balancer):
    """Keep, for every weight, only the tasks' gradients of one sign, and sum them up.

    The positive sign is drawn with probability ½ (1 + Σ gᵢ / Σ |gᵢ|), from torch's generator (Chen et al.
    2020, "Just Pick a Sign", Algorithm 1, lines 10 to 15, on the shared parameters). It works weight by
    weight, so there are no weights of tasks.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self._aggregator = from_torchjd("GradDrop")

    def balance(
        self, gradients: TaskGradients, losses: torch.Tensor, present: Sequence[int] | None = None
    ) -> None:
        gradients.combine_elementwise(self._aggregator)

    def _weigh(self, gramian: torch.Tensor, losses: torch.Tensor, present: list[int]) -> torch.Tensor:
        raise NotImplementedError("GradDrop works weight by weight: it has no weights of tasks")
