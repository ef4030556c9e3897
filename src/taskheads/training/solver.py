"""Convex heads on frozen features, solved to convergence.

Every such head is a linear map of the features followed by a convex loss: softmax, logistic, squared,
cumulative-link, or the negative log-likelihood of a linear-chain CRF. One solver serves them all:

    minimise   mean loss(X W + b, theta)  +  penalty / 2 * |W|^2        over W, b and theta.

The features are rotated to their principal axes once (`Basis`); there the curvature of the first term is
close to diagonal, so scaling each axis by 1 / sqrt(curvature * variance + penalty) makes L-BFGS converge in
a few dozen steps, whatever the penalty (for squared loss: at once). The basis is shared by all penalties,
and by all tasks on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

# Axes whose variance is below this fraction of the largest carry rounding noise only.
_NEGLIGIBLE = 1e-6


class Basis:
    """Features centred and rotated to their principal axes.

    Parameters
    ----------
    features: [n, d].

    Attributes
    ----------
    rows: the same n rows in the new axes, [n, r]; r <= d leaves out axes without variance.
    variances: of each axis, [r].
    """

    def __init__(self, features: torch.Tensor) -> None:
        self.mean = features.mean(0)
        centred = features - self.mean
        covariance = (centred.T @ centred).double() / len(features)
        variances, axes = torch.linalg.eigh(covariance)
        kept = variances > _NEGLIGIBLE * variances[-1].clamp_min(1e-30)
        self.axes = axes[:, kept].to(features.dtype)
        self.variances = variances[kept].to(features.dtype)
        self.rows = centred @ self.axes

    def of(self, features: torch.Tensor) -> torch.Tensor:
        """Other features in these axes, [m, r]."""
        return (features - self.mean) @ self.axes

    def in_features(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The map `rows @ weight + bias` [r, c], [c] as a map of the features themselves, [d, c], [c]."""
        weight = self.axes @ weight
        return weight, bias - self.mean @ weight


@dataclass
class Solution:
    """Weights in the axes of a `Basis` [r, c], bias [c], other parameters, and how the search ended."""

    weight: torch.Tensor
    bias: torch.Tensor
    extra: list[torch.Tensor]
    loss: float
    steps: int


Loss = Callable[[torch.Tensor, Sequence[torch.Tensor]], torch.Tensor]


def solve(
    basis: Basis,
    loss: Loss,
    outputs: int,
    penalty: float,
    *,
    curvature: float,
    bias: bool = True,
    extra: Sequence[torch.Tensor] = (),
    start: Solution | None = None,
    tolerance: float = 1e-5,
    max_steps: int = 200,
) -> Solution:
    """The minimiser of mean `loss` + penalty / 2 * |W|^2.

    Parameters
    ----------
    loss: from scores [n, outputs] and the extra parameters to the mean loss over rows, convex.
    penalty: on the squared Frobenius norm of W. scikit-learn's C is 1 / (n * penalty).
    curvature: a bound on the loss's second derivative in a score: 1 squared, 1/4 logistic, 1/2 softmax
        (Boehning 1992).
    bias: whether there is an (unpenalised) bias.
    extra: starting values of further unpenalised parameters.
    start: a solution for another penalty, to start from.
    tolerance: on the largest entry of the gradient, in the scaled axes, relative to the loss at zero.
    """
    rows, device = basis.rows, basis.rows.device
    scale = torch.rsqrt(curvature * basis.variances + penalty)[:, None]
    if start is None:
        weight = torch.zeros(rows.shape[1], outputs, dtype=rows.dtype, device=device)
        shift = torch.zeros(outputs, dtype=rows.dtype, device=device)
        others = [value.detach().clone() for value in extra]
    else:
        weight, shift = start.weight / scale, start.bias.clone()
        others = [value.detach().clone() for value in start.extra]
    free = [weight, *([shift] if bias else []), *others]
    for parameter in free:
        parameter.requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        free,
        max_iter=max_steps,
        max_eval=2 * max_steps,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )
    last = torch.zeros(())

    def closure() -> torch.Tensor:
        nonlocal last
        optimiser.zero_grad()
        unscaled = weight * scale
        last = loss(rows @ unscaled + shift, others) + 0.5 * penalty * unscaled.square().sum()
        last.backward()
        return last

    optimiser.step(closure)
    steps = optimiser.state[free[0]]["n_iter"]
    return Solution(
        (weight * scale).detach(),
        shift.detach(),
        [value.detach() for value in others],
        float(last.detach()),
        steps,
    )
