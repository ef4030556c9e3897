"""What every gradient balancer is: from inner products of the tasks' gradients to a weight for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from taskheads.errors import ConfigError
from taskheads.sharing.gradients import TaskGradients

State = dict[str, torch.Tensor]


class Balancer(ABC):
    """Decides how the gradients of several tasks become one.

    `n_tasks` counts all tasks of the run. In a step some may have no rows: `present` lists the numbers of
    those that have, in the order of the Gramian, and only these are decided on.

    Attributes
    ----------
    at_representation: whether it is meant for the Gramian of `representation_gradients`, instead of that of
        all shared parameters. Set by `balancer`, read by whoever runs the step.
    """

    at_representation = False

    def __init__(self, n_tasks: int) -> None:
        self.n_tasks = n_tasks

    def weights(
        self, gramian: torch.Tensor, losses: torch.Tensor, present: Sequence[int] | None = None
    ) -> torch.Tensor:
        """The factor of each present task's gradient, float64 [k], from the Gramian [k, k] and losses [k].

        A task whose gradient is zero has nothing to say and gets the weight 0; the others are decided on as
        if it were absent. Where the Gramian is not finite (an overflow under mixed precision) or zero, every
        task gets 1 / k.
        """
        gramian, losses = gramian.double().cpu(), losses.detach().double().cpu()
        lively = gramian.diagonal() > 0
        if not bool(gramian.isfinite().all()) or not bool(lively.any()):
            return gramian.new_full((len(gramian),), 1 / len(gramian))
        tasks = list(range(self.n_tasks) if present is None else present)
        left = [task for task, moves in zip(tasks, lively.tolist(), strict=True) if moves]
        weights = torch.zeros_like(losses)
        weights[lively] = self._weigh(gramian[lively][:, lively], losses[lively], left).double()
        return weights

    def balance(
        self, gradients: TaskGradients, losses: torch.Tensor, present: Sequence[int] | None = None
    ) -> torch.Tensor | None:
        """Add the balanced gradient to the backbone's `.grad`; returns the weights [k] used, if any."""
        weights = self.weights(gradients.gramian(), losses, present)
        gradients.combine(weights)
        return weights

    def state_dict(self) -> State:
        """All that later steps depend on, but for torch's random number generator."""
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, but was given {sorted(state)}")

    @abstractmethod
    def _weigh(self, gramian: torch.Tensor, losses: torch.Tensor, present: list[int]) -> torch.Tensor: ...


class GramianBalancer(Balancer):
    """One of torchjd's weightings that has no state and does not depend on the gradients' common scale."""

    peer: ClassVar[str]
    # Of the Gramian: torchjd takes its tolerance for rank from the type.
    precision: ClassVar[torch.dtype] = torch.float64

    def __init__(self, n_tasks: int, **options: Any) -> None:
        super().__init__(n_tasks)
        self._weighting = from_torchjd(self.peer, **options)

    def _weigh(self, gramian: torch.Tensor, losses: torch.Tensor, present: list[int]) -> torch.Tensor:
        # torchjd takes a Gramian whose trace is below 1e-4 for zero, as it often is late in training.
        return self._weighting((gramian / gramian.trace()).to(self.precision))


def from_torchjd(name: str, **options: Any) -> Any:
    """An object of `torchjd.aggregation`, which is imported only here: it is an optional dependency."""
    try:
        from torchjd import aggregation

        return getattr(aggregation, name)(**options)
    except ImportError as error:
        reason = f"gradient balancing needs torchjd and its solvers ({error})"
        raise ConfigError(f"{reason}: pip install taskheads[balance]") from error


def square_root(gramian: torch.Tensor) -> torch.Tensor:
    """A matrix [T, T] whose rows have the inner products `gramian`: the tasks' gradients, rotated."""
    values, vectors = torch.linalg.eigh(gramian)
    return vectors * values.clamp(min=0).sqrt()
