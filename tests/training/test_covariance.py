"""Ridge systems solved through factors that are kept, against solving each by itself."""

from __future__ import annotations

import pytest
import torch

from taskheads.training.covariance import Covariance

PENALTIES = (10.0, 0.1, 1e-3)


def semidefinite(d: int, rank: int) -> torch.Tensor:
    rows = torch.randn(rank, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    return rows.T @ rows / d


@pytest.mark.parametrize(("d", "rank"), [(1, 1), (2, 2), (3, 3), (40, 40), (40, 7), (1100, 60)])
def test_each_system_is_solved(d: int, rank: int) -> None:
    matrix = semidefinite(d, rank)
    right = torch.randn(d, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = Covariance(matrix.clone()).solve(right, PENALTIES)
    for penalty, each in zip(PENALTIES, found, strict=True):
        expected = torch.linalg.solve(matrix + penalty * torch.eye(d, dtype=torch.float64), right)
        torch.testing.assert_close(each, expected)


@pytest.mark.parametrize("d", [9, 1100])
def test_the_upper_half_is_read(d: int) -> None:
    matrix, right = semidefinite(d, 9), torch.ones(d, 1, dtype=torch.float64)
    (whole,), (half,) = (Covariance(each).solve(right, [0.1]) for each in (matrix.clone(), matrix.triu()))
    assert torch.equal(half, whole)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_what_rounding_leaves_of_a_singular_matrix_does_not_blow_up(kind: torch.dtype) -> None:
    matrix = semidefinite(30, 5).to(kind)
    right = matrix @ torch.ones(30, 1, dtype=kind)
    (found,) = Covariance(matrix.clone()).solve(right, [1e-12])
    torch.testing.assert_close(matrix @ found, right, atol=1e-4, rtol=1e-4)
    assert found.abs().max() < 3
    (nothing,) = Covariance(torch.zeros(4, 4, dtype=kind)).solve(torch.zeros(4, 2, dtype=kind), [0.1])
    assert not nothing.any()
