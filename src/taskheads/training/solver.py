"""Convex heads on frozen features, solved to convergence.

Every such head is a linear map of the features followed by a convex loss: softmax, logistic, squared,
cumulative, or the negative log-likelihood of a linear-chain CRF. What it is solved with is computed once
for all tasks on the same rows (`Basis`):

* least squares takes a Cholesky factor of the features' covariance for each penalty, whatever the targets;
* any other loss is minimised over the combinations of a few directions (`Subspace`), in their principal
  axes. Its curvature along an axis is about `curvature * variance`; scaling each axis by
  1 / sqrt(curvature * variance + penalty) makes L-BFGS converge in a few dozen steps at any penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import linear, normalize

from taskheads.training.covariance import Covariance


@dataclass(frozen=True, eq=False)
class Block:
    """Some columns of features, [n, w]: `centred` is `scale` times them, less `mean` [w]."""

    centred: torch.Tensor
    mean: torch.Tensor
    scale: float = 1.0

    @classmethod
    def of(cls, features: torch.Tensor) -> Block:
        mean = features.mean(0)
        return cls(features - mean, mean)

    @property
    def nbytes(self) -> int:
        return self.centred.nbytes

    def product(self, other: Block) -> torch.Tensor:
        """centred.T @ other.centred, [w, w']."""
        return self.centred.T @ other.centred


class Basis:
    """The mean and the covariance of features [n, d], given as blocks side by side.

    `product` gives the product of two blocks, where that is kept for other bases with the same blocks.

    Attributes
    ----------
    mean, scale: [d], of all blocks.
    """

    def __init__(
        self, blocks: Sequence[Block], product: Callable[[Block, Block], torch.Tensor] = Block.product
    ) -> None:
        self.blocks = tuple(blocks)
        self.mean = torch.cat([block.mean for block in blocks])
        self.scale = torch.cat([torch.full_like(block.mean, block.scale) for block in blocks])
        ends = np.cumsum([len(block.mean) for block in blocks]).tolist()
        self._places = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        self._inside: torch.Tensor | None = None
        n, d = len(blocks[0].centred), len(self.mean)
        if n < d:
            # Solutions are combinations of the rows, which are fewer: the covariance is that in their space.
            rows = torch.cat([block.centred for block in blocks], dim=1)
            self._inside = torch.linalg.qr(rows.T).Q
            rows = rows @ self._inside
            covariance = rows.T @ rows
        else:
            covariance = self.mean.new_zeros(d, d)  # its upper half, which is all that is read
            for i, above in enumerate(self._places):
                for j, right in enumerate(self._places[i:], i):
                    covariance[above, right] = product(blocks[i], blocks[j])
        self._covariance = Covariance(covariance.div_(n))

    @property
    def nbytes(self) -> int:
        return self._covariance.nbytes + sum(block.nbytes for block in self.blocks)

    def columns(self, at: Sequence[int]) -> torch.Tensor:
        """The centred features in some columns, ascending, [n, len(at)]."""
        found = [
            block.centred[:, [column - place.start for column in at if place.start <= column < place.stop]]
            for block, place in zip(self.blocks, self._places, strict=True)
        ]
        return torch.cat(found, dim=1)

    def shrunk(self, moment: torch.Tensor, penalties: Sequence[float]) -> list[torch.Tensor]:
        """(covariance + penalty)^-1 @ moment, [d, c], for each penalty; `moment` [d, c] is a combination of
        the rows."""
        if self._inside is None:
            return self._covariance.solve(moment, penalties)
        found = self._covariance.solve(self._inside.T @ moment, penalties)
        return [self._inside @ each for each in found]

    def span(self, directions: torch.Tensor) -> Subspace:
        """The rows in the space spanned by directions [d, m], of which k <= m are independent."""
        # In double precision their products tell apart what depends on others in single precision.
        columns = normalize(directions.double(), dim=0)
        squares, turn = torch.linalg.eigh(columns.T @ columns)
        kept = squares > 1e-8
        axes = (columns @ (turn[:, kept] * squares[kept].rsqrt())).to(directions.dtype)
        rows = self.mean.new_zeros(len(self.blocks[0].centred), axes.shape[1])
        for block, place in zip(self.blocks, self._places, strict=True):
            rows.addmm_(block.centred, axes[place])
        variances, turn = torch.linalg.eigh(rows.T @ rows / len(rows))
        return Subspace(rows @ turn, variances.clamp_min(0), axes @ turn, self.mean)


@dataclass
class Subspace:
    """Rows [n, k] in principal axes [d, k] with these variances [k]; `mean` [d] is taken out of them."""

    rows: torch.Tensor
    variances: torch.Tensor
    axes: torch.Tensor
    mean: torch.Tensor


@dataclass
class Solution:
    """A linear map of the features, weight [d, c] and bias [c], and the loss's other parameters.

    `inner` is the weight in the axes in which it was found; `steps` counts L-BFGS steps (0: closed form).
    """

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float
    extra: list[torch.Tensor] = field(default_factory=list)
    inner: torch.Tensor | None = None
    steps: int = 0

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, features, self.weight)


Loss = Callable[[torch.Tensor, Sequence[torch.Tensor]], torch.Tensor]


class Targets:
    """Numbers [n, c] to be fitted, and their products with blocks of features, each computed once."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self.centre = numbers.mean(0)
        self._rows = (numbers - self.centre).T
        self._moments: dict[Block, torch.Tensor] = {}

    def moment(self, block: Block) -> torch.Tensor:
        """Mean over rows of features times targets, [w, c]."""
        if block not in self._moments:
            # Few outputs first: the features are then read in the order in which they stand.
            self._moments[block] = (self._rows @ block.centred).T / len(block.centred)
        return self._moments[block]


class LeastSquares:
    """Linear least squares with an unpenalised bias, ready to be solved for any penalty.

    Minimises mean |X W + b - Y|^2 / 2 + penalty / 2 * |W|^2; scikit-learn's Ridge alpha is n * penalty.
    """

    def __init__(self, basis: Basis, targets: Targets) -> None:
        self.basis, self.centre = basis, targets.centre
        self.moment = torch.cat([targets.moment(block) for block in basis.blocks])

    def solutions(self, penalties: Sequence[float]) -> list[Solution]:
        """A solution for each penalty."""
        weights = self.basis.shrunk(self.moment, penalties)
        return [
            Solution(weight, self.centre - self.basis.mean @ weight, penalty)
            for weight, penalty in zip(weights, penalties, strict=True)
        ]


def solve(
    subspace: Subspace,
    loss: Loss,
    outputs: int,
    penalty: float,
    *,
    curvature: float,
    extra: Sequence[torch.Tensor] = (),
    biased: bool = True,
    start: Solution | None = None,
    tolerance: float = 5e-5,
    max_steps: int = 100,
) -> Solution:
    """The minimiser of mean `loss` + penalty / 2 * |W|^2 over W in a subspace, the bias and `extra`.

    Parameters
    ----------
    loss: from scores [n, outputs] and the extra parameters to the mean loss over rows, convex in both.
    penalty: on the squared Frobenius norm of W. scikit-learn's C is 1 / (n * penalty).
    curvature: about the loss's second derivative in a score, as a mean over rows. How many steps are taken
        depends on it, the minimiser does not.
    extra: starting values of the loss's other, unpenalised parameters.
    biased: whether there is an unpenalised bias.
    start: a solution in the same subspace, to start from.
    tolerance: L-BFGS stops when no entry of the gradient exceeds it, in units in which an unpenalised axis
        has variance one, or when a step lowers the loss by less than four times its square (by default, what
        single precision can tell).
    max_steps: L-BFGS steps at most.
    """
    rows = subspace.rows
    # What is not penalised is scaled as an axis of variance one would be without a penalty.
    unit = curvature**-0.5
    scale = torch.rsqrt(curvature * subspace.variances + penalty)
    # An output's weights stand together: the gradient then reads the rows in the order in which they stand.
    if start is None or start.inner is None:
        scaled, shift = rows.new_zeros(outputs, rows.shape[1]), rows.new_zeros(outputs)
    else:
        scaled, shift = start.inner.T / scale, (start.bias + subspace.mean @ start.weight) / unit
    others = [value.detach() / unit for value in (extra if start is None else start.extra)]
    free = [scaled, *([shift] if biased else []), *others]
    optimiser = torch.optim.LBFGS(
        free,
        max_iter=max_steps,
        max_eval=2 * max_steps,
        history_size=20,
        tolerance_grad=tolerance * unit,
        tolerance_change=4 * tolerance**2,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        # Only the loss goes through autograd: the linear map's gradient is one product more.
        weight = scaled * scale
        scores = linear(rows, weight, shift * unit).requires_grad_()
        values = [(each * unit).requires_grad_() for each in others]
        value = loss(scores, values)
        miss, *slopes = torch.autograd.grad(value, [scores, *values])
        scaled.grad = (miss.T @ rows).add_(weight, alpha=penalty).mul_(scale)
        shift.grad = miss.sum(0) * unit
        for each, slope in zip(others, slopes, strict=True):
            each.grad = slope * unit
        return value.detach() + 0.5 * penalty * weight.square().sum()

    optimiser.step(objective)
    inner = (scaled * scale).detach().T
    weight = subspace.axes @ inner
    return Solution(
        weight,
        shift.detach() * unit - subspace.mean @ weight,
        penalty,
        [value.detach() * unit for value in others],
        inner,
        int(optimiser.state[free[0]]["n_iter"]),
    )
