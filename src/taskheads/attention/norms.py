"""What a norm makes of the parts of a vector."""

from __future__ import annotations

import torch
from torch import nn

from taskheads.attention.direct import through_norm


def normed(norm: nn.Module, x: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
    """What each of k parts [n, k, D] of x [n, D] becomes at the output of a norm, whose statistics stay those
    of x: [n, k, D]. Of parts that sum to x, these and the norm's bias sum to norm(x). For the norms that
    `through_norm` knows."""
    # Of the linear map that carries directions back through the norm, the transpose carries parts forward.
    with torch.inference_mode(False), torch.enable_grad():
        directions = torch.zeros_like(parts, requires_grad=True)
        carried, _ = through_norm(norm, x.detach().clone(), directions)
        return torch.autograd.grad(carried, directions, parts.detach().clone())[0]
