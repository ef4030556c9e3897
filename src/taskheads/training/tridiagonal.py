"""Covariances as turned tridiagonal matrices, which any number of ridge regressions are solved with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import get_lapack_funcs, solveh_banded


class Tridiagonal:
    """A positive semidefinite matrix A [d, d] as Q T Q^T, with T tridiagonal and Q orthogonal.

    A + penalty is then solved for in one sweep through T + penalty, at any penalty, and finding Q and T takes
    half the time of finding eigenvectors, of which they are the first stage (Golub and Van Loan, Matrix
    Computations, 8.3.1). Of `matrix`, which is overwritten, the upper half is read.
    """

    def __init__(self, matrix: torch.Tensor) -> None:
        # In the order of LAPACK the upper half is the lower one.
        lower = matrix.numpy().T
        reduce, workspace = get_lapack_funcs(("sytrd", "sytrd_lwork"), (lower,))
        size = int(workspace(len(lower), lower=1)[0])
        made, self._diagonal, self._beside, scales, _ = reduce(lower, lower=1, lwork=size, overwrite_a=1)
        # Q leaves the first coordinate as it is, and is a product of reflections of the others.
        self._reflections = torch.from_numpy(np.asfortranarray(made[1:, :-1])), torch.from_numpy(scales)
        # What rounding may take from small eigenvalues, in terms of a bound (Gershgorin's) of the largest.
        largest = self._diagonal.max() + 2 * np.abs(self._beside).max(initial=0)
        self._least = 4 * np.finfo(lower.dtype).eps * largest

    @property
    def nbytes(self) -> int:
        return self._reflections[0].nbytes

    def solve(self, right: torch.Tensor, penalties: Sequence[float]) -> list[torch.Tensor]:
        """(A + penalty)^-1 @ right, [d, c], for each penalty; one that rounding would outweigh is taken as
        large as that."""
        turned = self._turn(right, back=False).numpy()
        found = [torch.from_numpy(self._sweep(turned, penalty)) for penalty in penalties]
        # One turn for all penalties: with few columns, reading the reflections is what takes time.
        return list(self._turn(torch.cat(found, dim=1), back=True).split(right.shape[1], dim=1))

    def _sweep(self, right: np.ndarray, penalty: float) -> np.ndarray:
        bands = np.zeros((2, len(right)), right.dtype)
        bands[0] = self._diagonal + max(penalty, self._least)
        bands[1, :-1] = self._beside
        return solveh_banded(bands[: len(right)], right, lower=True, check_finite=False)

    def _turn(self, columns: torch.Tensor, *, back: bool) -> torch.Tensor:
        """Q @ columns, or without `back` Q^T @ columns."""
        return torch.cat([columns[:1], torch.ormqr(*self._reflections, columns[1:], transpose=not back)])
