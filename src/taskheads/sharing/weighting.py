"""Weights of the losses: how the losses of several tasks become the one that is trained on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from taskheads.errors import ConfigError
from taskheads.methods import method
from taskheads.tasks.suggest import did_you_mean, listed

# Of `SLAW`: losses of a task before their spread counts, and the least spread.
_FEWEST, _LEAST = 5, 1e-3


class LossWeighting(nn.Module):
    """Base of the loss weightings.

    What is trained on, `total`, is linear in the losses, `weighted`, but for a `price` of the weights
    themselves. So where a step is cut into parts, over time or over processes, and a task's loss is the sum
    of theirs, the weighted losses of the parts add up; the price counts once a step, and `observe` is told
    the losses of the whole step.

    Its parameters, if any, are trained with the model's; `state_dict` is all that a resumed run needs. In a
    step some of the `n_tasks` may have no rows: `present` lists the numbers of those that have, in the order
    of the losses [k]; None is all of them.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.n_tasks = n_tasks

    @abstractmethod
    def weights(self) -> torch.Tensor:
        """The factor of each task's loss now, [T]; the mean factor of equal weights is 1."""

    def weighted(self, losses: torch.Tensor, present: Sequence[int] | None = None) -> torch.Tensor:
        """The weighted sum of the present tasks' losses [k], a scalar."""
        return (self.weights()[self._at(present)].to(losses.dtype) * losses).sum()

    def price(self, present: Sequence[int] | None = None) -> torch.Tensor:
        """What the present tasks' weights cost, a scalar that does not depend on the losses; 0 unless said
        otherwise."""
        return torch.zeros(())

    def total(self, losses: torch.Tensor, present: Sequence[int] | None = None) -> torch.Tensor:
        """The loss to be trained on, a scalar, from the present tasks' losses [k] of a whole step."""
        return self.weighted(losses, present) + self.price(present).to(losses)

    def observe(self, losses: torch.Tensor, present: Sequence[int] | None = None) -> None:
        """Take note of the present tasks' losses [k] of a whole step."""

    def end_period(self) -> None:
        """An epoch, or what stands for one, has ended."""

    def _at(self, present: Sequence[int] | None) -> list[int]:
        return list(range(self.n_tasks) if present is None else present)


@method("equal", family="sharing", paper="Caruana 1997, Multitask Learning")
class Equal(LossWeighting):
    """The sum of the tasks' losses."""

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self.register_buffer("_ones", torch.ones(self.n_tasks), persistent=False)

    def weights(self) -> torch.Tensor:
        return self.get_buffer("_ones")


@method("uncertainty", family="sharing", paper="arXiv:1705.07115")
class Uncertainty(LossWeighting):
    """Learn each task's noise: its loss over a variance σ², plus the price log σ of calling it noisy.

    For regression the negative log-likelihood of a Gaussian, ½ error² / σ² + log σ; for classification that
    of a softmax at temperature σ², as the paper approximates it, cross-entropy / σ² + log σ (Kendall et al.
    2018, equations 7 and 10). Heads for regression return half the squared error, so both are
    loss · exp(-s) + ½ s, with s = log σ² [T] the learned parameter, 0 at first. At the optimum σ² is twice
    the loss.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self.log_variances = nn.Parameter(torch.zeros(self.n_tasks))

    def weights(self) -> torch.Tensor:
        return (-self.log_variances).exp()

    def price(self, present: Sequence[int] | None = None) -> torch.Tensor:
        return 0.5 * self.log_variances[self._at(present)].sum()


@method("dynamic_weight_average", family="sharing", paper="arXiv:1803.10704")
class DynamicWeightAverage(LossWeighting):
    """Weigh a task by how slowly its loss fell between the last two periods.

    wᵢ = T · softmax(rᵢ / temperature), rᵢ the task's mean loss of the last period over that of the one
    before (Liu et al. 2019, equation 7; temperature 2). Equal weights for the first two periods; a task that
    lacks one of them has r = 1. `observe` collects the losses, `end_period` ends a period.
    """

    def __init__(self, n_tasks: int, temperature: float = 2.0) -> None:
        super().__init__(n_tasks)
        self.temperature = temperature
        for name in ("sums", "counts"):
            self.register_buffer(name, torch.zeros(self.n_tasks, dtype=torch.float64))
        self.register_buffer("means", torch.full((2, self.n_tasks), torch.nan, dtype=torch.float64))

    def weights(self) -> torch.Tensor:
        before, last = self.get_buffer("means")
        rates = (last / before).nan_to_num(nan=1.0, posinf=1.0)
        return self.n_tasks * torch.softmax(rates / self.temperature, 0)

    def observe(self, losses: torch.Tensor, present: Sequence[int] | None = None) -> None:
        at = self._at(present)
        sums, counts = self.get_buffer("sums"), self.get_buffer("counts")
        sums[at] += losses.detach().to(sums)
        counts[at] += 1

    def end_period(self) -> None:
        sums, counts, means = (self.get_buffer(name) for name in ("sums", "counts", "means"))
        means.copy_(torch.stack([means[1], sums / counts]))
        sums.zero_()
        counts.zero_()


@method("slaw", family="sharing", paper="arXiv:2109.08218")
class SLAW(LossWeighting):
    """Weigh a task by one over how much its loss goes up and down, which tells the length of its gradient.

    wᵢ = T / sᵢ over the sum of all 1 / sᵢ, with sᵢ² = E[Lᵢ²] - E[Lᵢ]² by moving averages of decay `decay`
    (Crawshaw and Košecká 2021, "Scaled loss approximate weighting"): no gradient is computed for it. Our
    own are the start, where an average counts the values that it has seen and weights are equal until every
    task was there five times, and that s is at least 0.001, or a task without any loss left would have all
    the weight.
    """

    def __init__(self, n_tasks: int, decay: float = 0.95) -> None:
        super().__init__(n_tasks)
        self.decay = decay
        for name in ("means", "squares", "counts"):
            self.register_buffer(name, torch.zeros(self.n_tasks, dtype=torch.float64))

    def weights(self) -> torch.Tensor:
        means, squares, counts = self._seen()
        if counts.min() < _FEWEST:
            return torch.ones_like(means)
        filled = 1 - self.decay**counts
        spread = (squares / filled - (means / filled) ** 2).clamp(min=_LEAST**2).sqrt()
        return self.n_tasks / spread / (1 / spread).sum()

    def observe(self, losses: torch.Tensor, present: Sequence[int] | None = None) -> None:
        at, (means, squares, counts) = self._at(present), self._seen()
        values = losses.detach().to(means)
        means[at] = torch.lerp(values, means[at], self.decay)
        squares[at] = torch.lerp(values**2, squares[at], self.decay)
        counts[at] += 1

    def _seen(self) -> tuple[torch.Tensor, ...]:
        return tuple(self.get_buffer(name) for name in ("means", "squares", "counts"))


_WEIGHTINGS: dict[str, type[LossWeighting]] = {
    "equal": Equal,
    "uncertainty": Uncertainty,
    "dynamic_weight_average": DynamicWeightAverage,
    "slaw": SLAW,
}
WEIGHTINGS = tuple(_WEIGHTINGS)


def loss_weighting(name: str, n_tasks: int) -> LossWeighting:
    """The loss weighting of that name, one of `WEIGHTINGS`. Raises ConfigError for any other name."""
    if name not in _WEIGHTINGS:
        choices = f"choose from {listed(WEIGHTINGS)}"
        raise ConfigError(f"there is no loss weighting {name!r}{did_you_mean(name, WEIGHTINGS)}: {choices}")
    return _WEIGHTINGS[name](n_tasks)
