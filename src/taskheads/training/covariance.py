"""Covariances that any number of ridge regressions are solved with."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

# Above this size a matrix is factored by halves.
_HALVED = 512


class Covariance:
    """A positive semidefinite matrix A [d, d]; of `matrix`, its upper half is read.

    A + penalty is solved for by its Cholesky factor: d³ / 3 operations, a quarter of those of a tridiagonal
    form, which would serve all penalties but is only half made of products of matrices. A factor is found
    when a penalty is first asked for, and kept: tasks on the same features, which may be solved for in
    several threads, try the same few penalties.
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        self._matrix = matrix
        self._factors: dict[float, torch.Tensor] = {}
        self._factoring: dict[float, threading.Lock] = {}
        # What rounding may take from small eigenvalues, in terms of a bound of the largest.
        largest = float(torch.linalg.vector_norm(matrix.triu())) * 2**0.5
        self._least = 4 * torch.finfo(matrix.dtype).eps * largest

    @property
    def nbytes(self) -> int:
        return self._matrix.nbytes * (1 + len(self._factors))

    def solve(self, right: torch.Tensor, penalties: Sequence[float]) -> list[torch.Tensor]:
        """(A + penalty)^-1 @ right, [d, c], for each penalty > 0; one that rounding would outweigh is taken
        as large as that."""
        return [_solved(self._factor(penalty), right) for penalty in penalties]

    def _factor(self, penalty: float) -> torch.Tensor:
        with self._factoring.setdefault(penalty, threading.Lock()):
            if penalty not in self._factors:
                penalised = self._matrix.clone()
                penalised.diagonal().add_(max(penalty, self._least))
                _factor_(penalised)
                self._factors[penalty] = penalised
            return self._factors[penalty]


def _factor_(matrix: torch.Tensor) -> None:
    """Put U, with UᵀU the positive definite matrix [d, d], in the place of its upper half, which alone is
    read.

    Halves of a large matrix are factored one after the other: torch goes over all of the other half once
    more, column by column, which takes longer than the factor of a matrix that is larger than the cache.
    """
    if len(matrix) <= _HALVED:
        # Not checked: what is no number is so in the features, and is seen in the scores. In the order of
        # LAPACK the upper half is the lower one.
        matrix.copy_(torch.linalg.cholesky_ex(matrix.T).L.T)
        return
    half = len(matrix) // 2
    first, right, second = matrix[:half, :half], matrix[:half, half:], matrix[half:, half:]
    _factor_(first)
    right.copy_(torch.linalg.solve_triangular(first.T, right, upper=False))
    second.addmm_(right.T, right, alpha=-1)
    _factor_(second)


def _solved(factor: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(UᵀU)^-1 @ right. By two triangular systems: `cholesky_solve` copies the factor first, which with few
    columns takes longer than to solve."""
    inner = torch.linalg.solve_triangular(factor.T, right, upper=False)
    return torch.linalg.solve_triangular(factor, inner, upper=True)
