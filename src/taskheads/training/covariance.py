"""Covariances that any number of ridge regressions are solved with."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Covariance:
    """A positive semidefinite matrix A [d, d]; of `matrix`, its upper half is read.

    A + penalty is solved for by its Cholesky factor: d³ / 3 operations, a quarter of those of a tridiagonal
    form, which would serve all penalties but is only half made of products of matrices. A factor is found
    when a penalty is first asked for, and kept: tasks on the same features try the same few penalties.
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        # In the order of LAPACK the upper half is the lower one.
        self._lower = matrix.T
        self._factors: dict[float, torch.Tensor] = {}
        # What rounding may take from small eigenvalues, in terms of a bound of the largest.
        largest = float(torch.linalg.vector_norm(matrix.triu())) * 2**0.5
        self._least = 4 * torch.finfo(matrix.dtype).eps * largest

    @property
    def nbytes(self) -> int:
        return self._lower.nbytes * (1 + len(self._factors))

    def solve(self, right: torch.Tensor, penalties: Sequence[float]) -> list[torch.Tensor]:
        """(A + penalty)^-1 @ right, [d, c], for each penalty > 0; one that rounding would outweigh is taken
        as large as that."""
        return [torch.cholesky_solve(right, self._factor(penalty)) for penalty in penalties]

    def _factor(self, penalty: float) -> torch.Tensor:
        if penalty not in self._factors:
            penalised = self._lower.clone()
            penalised.diagonal().add_(max(penalty, self._least))
            # Not checked: what is no number is so in the features, and is seen in the scores.
            self._factors[penalty] = torch.linalg.cholesky_ex(penalised).L
        return self._factors[penalty]
