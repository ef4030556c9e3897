"""Convex heads on frozen features, solved to convergence.

Every such head is a linear map of the features followed by a convex loss: softmax, logistic, squared,
cumulative, or the negative log-likelihood of a linear-chain CRF. One solver serves them all:

    minimise   mean loss(X W + b, theta)  +  penalty / 2 * |W|^2        over W, b and theta.

The loss's curvature is at most `curvature * X'X / n`, so its Cholesky factor, with the penalty added, is a
preconditioner under which L-BFGS converges in a few dozen steps whatever the penalty and however uneven the
features. For the squared loss the bound is exact and the solution closed (`ridge`). The Gram matrix X'X is
made once (`Design`) and shared by all penalties, and by all tasks on the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch


class Design:
    """Features with their mean taken out, and their Gram matrix.

    Parameters
    ----------
    features: [n, d].

    Attributes
    ----------
    mean: [d]; rows: [n, d], of mean zero; gram: rows' rows / n, [d, d].
    """

    def __init__(self, features: torch.Tensor) -> None:
        self.mean = features.mean(0)
        self.rows = features - self.mean
        self.gram = self.rows.T @ self.rows / len(features)

    def factor(self, curvature: float, penalty: float) -> torch.Tensor:
        """Lower Cholesky factor of curvature * gram + penalty * I, [d, d]."""
        matrix = curvature * self.gram
        # A floor far below any feature's variance: rounding in the Gram matrix must not make it indefinite.
        floor = 1e-6 * float(matrix.diagonal().mean())
        matrix.diagonal().add_(max(penalty, floor))
        return torch.linalg.cholesky(matrix)


@dataclass
class Solution:
    """A linear map of the features, [d, c] and [c], and the loss's other parameters.

    `loss` is the value of the objective, `steps` how many L-BFGS steps were taken (0: closed form).
    """

    weight: torch.Tensor
    bias: torch.Tensor
    extra: list[torch.Tensor] = field(default_factory=list)
    loss: float = float("nan")
    steps: int = 0

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, features, self.weight)


Loss = Callable[[torch.Tensor, Sequence[torch.Tensor]], torch.Tensor]


def ridge(design: Design, targets: torch.Tensor, penalties: Sequence[float]) -> list[Solution]:
    """Least squares with an unpenalised bias, targets [n, c], one solution for each penalty.

    Minimises mean |X W + b - Y|^2 / 2 + penalty / 2 * |W|^2; scikit-learn's Ridge alpha is n * penalty.
    """
    centre = targets.mean(0)
    moment = design.rows.T @ (targets - centre) / len(targets)
    solutions = []
    for penalty in penalties:
        weight = torch.cholesky_solve(moment, design.factor(1.0, penalty))
        solutions.append(Solution(weight, centre - design.mean @ weight))
    return solutions


def solve(
    design: Design,
    loss: Loss,
    outputs: int,
    penalty: float,
    *,
    curvature: float,
    extra: Sequence[torch.Tensor] = (),
    bias: bool = True,
    start: Solution | None = None,
    tolerance: float = 1e-4,
    max_steps: int = 100,
) -> Solution:
    """The minimiser of mean `loss` + penalty / 2 * |W|^2.

    Parameters
    ----------
    loss: from scores [n, outputs] and the extra parameters to the mean loss over rows, convex.
    penalty: on the squared Frobenius norm of W. scikit-learn's C is 1 / (n * penalty).
    curvature: a bound on the loss's second derivative in a score: 1/4 logistic, 1/2 softmax (Boehning 1992).
    extra: starting values of the loss's other, unpenalised parameters.
    bias: whether to fit an unpenalised bias.
    start: a solution for another penalty, to start from.
    tolerance: L-BFGS stops when no entry of the preconditioned gradient exceeds it.
    max_steps: L-BFGS steps at most.
    """
    factor = design.factor(curvature, penalty)
    if start is None:
        scaled = design.rows.new_zeros(design.rows.shape[1], outputs)
        shift = design.rows.new_zeros(outputs)
        others = [value.detach().clone() for value in extra]
    else:
        scaled = factor.T @ start.weight
        shift = start.bias + design.mean @ start.weight
        others = [value.clone() for value in start.extra]
    free = [scaled, *([shift] if bias else []), *others]
    for parameter in free:
        parameter.requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        free,
        max_iter=max_steps,
        max_eval=2 * max_steps,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        optimiser.zero_grad()
        weight = torch.linalg.solve_triangular(factor.T, scaled, upper=True)
        value = loss(torch.addmm(shift, design.rows, weight), others) + 0.5 * penalty * weight.square().sum()
        value.backward()
        return value

    optimiser.step(objective)
    with torch.no_grad():
        weight = torch.linalg.solve_triangular(factor.T, scaled, upper=True)
    state = optimiser.state[free[0]]
    return Solution(
        weight,
        shift.detach() - design.mean @ weight,
        [value.detach() for value in others],
        float(state["prev_loss"]),
        int(state["n_iter"]),
    )
