"""Products of a tall and a wide matrix, which are never multiplied out."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Factored:
    """The matrix left @ right, [..., m, r] by [..., r, n], with r far below m and n: what an attention head
    does to the residual stream. Everything is computed through the small r."""

    left: torch.Tensor
    right: torch.Tensor

    def dense(self) -> torch.Tensor:
        """[..., m, n]."""
        return self.left @ self.right

    @property
    def T(self) -> Factored:
        return Factored(self.right.mT, self.left.mT)

    def __matmul__(self, other: Factored) -> Factored:
        return Factored(self.left, self.right @ other.left @ other.right)

    def svd(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """U [..., m, r], the singular values [..., r] and V [..., n, r]: the matrix is U diag(s) Vᵀ."""
        first, small = torch.linalg.qr(self.left)
        last, other = torch.linalg.qr(self.right.mT)
        u, values, v = torch.linalg.svd(small @ other.mT)
        return first @ u, values, last @ v.mT

    def eigenvalues(self) -> torch.Tensor:
        """Of a square matrix, those r that are not 0 by its rank: complex [..., r]."""
        return torch.linalg.eigvals(self.right @ self.left)

    def norm(self) -> torch.Tensor:
        """Frobenius norm [...]."""
        small = (self.left.mT @ self.left) @ (self.right @ self.right.mT)
        return small.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0).sqrt()
