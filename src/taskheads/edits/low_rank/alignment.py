"""How far apart two groups of vectors lie, as a loss: what Align-LoRA brings together."""

from __future__ import annotations

import torch

# Variances of the Gaussian kernels: they span all scales, so that none has to be chosen (Bousmalis et al.
# 2016, "Domain separation networks", and the authors of Align-LoRA after them).
VARIANCES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)


def gaussian_kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The symmetric KL divergence, (KL(p‖q) + KL(q‖p)) / 2, of the Gaussians with diagonal covariance that
    are fitted to two groups of vectors [n, width] and [m, width], n and m at least 2.

    0 exactly for the same vectors, since then every term is.
    """
    (mean, variance), (other_mean, other) = ((each.mean(0), each.var(0) + 1e-8) for each in (first, second))
    shift = (mean - other_mean).square()
    terms = (variance + shift) / other + (other + shift) / variance - 2
    return terms.sum() / 4


def mmd(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The squared maximum mean discrepancy of two groups of vectors [n, width] and [m, width], under the sum
    of Gaussian kernels exp(−‖x − y‖² / (2 v)) over `VARIANCES`.

    Time and memory grow with n · m. 0 exactly for the same vectors.
    """
    within, other, between = (
        _kernel(a, b).mean() for a, b in ((first, first), (second, second), (first, second))
    )
    return within + other - 2 * between


def _kernel(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """[n, m]. Differences are taken before they are squared: x² + y² − 2xy would be off where x is near y."""
    distances = (first[:, None] - second[None]).square().sum(-1)
    total = torch.zeros_like(distances)
    for variance in VARIANCES:
        total = total + (distances * (-0.5 / variance)).exp()
    return total
