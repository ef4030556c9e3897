"""Arrow: tokens choose among the LoRAs of a library by the directions that each amplifies most."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

Factors = tuple[torch.Tensor, torch.Tensor]


def without_general(task: Factors, general: Factors, weight: float = 1.0) -> Factors:
    """The factors of a task's update less `weight` times a general one's, exactly: A [in, r + g] and
    B [r + g, out] with A B = A_task B_task − weight · A_general B_general.

    Each pair is A [in, r] and B [r, out] of an update x A B. The rank is the sum of both, since the
    difference of two products is not the product of the factors' differences.
    """
    return torch.cat([task[0], general[0]], 1), torch.cat([task[1], -weight * general[1]])


def mean_of(updates: Sequence[Factors]) -> Factors:
    """The factors of the mean of several updates; the rank is the sum of theirs."""
    downs, ups = zip(*updates, strict=True)
    return torch.cat(downs, 1), torch.cat(ups) / len(updates)


def prototype(down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The direction [in] of inputs, of length one, that the update x A B amplifies most: the top right
    singular vector of its weight (A B)ᵀ, up to sign.

    From the factors A [in, r] and B [r, out] alone: (A B) is never formed.
    """
    basis, triangle = torch.linalg.qr(down)
    # A B has the singular values of `triangle @ B`, and its left singular vectors are the basis times those.
    left, _, _ = torch.linalg.svd(triangle @ up, full_matrices=False)
    return basis @ left[:, 0]


class Arrow(nn.Module):
    """A library of L updates of one linear map, each less `weight` times a general one, of which every token
    takes a mixture of its own.

    Ostapenko et al. 2024 (arXiv:2405.11157), section 4: the score of update i for an input x is |⟨vᵢ, x⟩|, vᵢ
    its `prototype`; the `top` best are kept and weighted by the softmax of their scores. Since these weights
    have the sum one, the general update is subtracted once, from the mixture.

    Attributes
    ----------
    down [L, in, r], up [L, r, out]: the updates as they were. prototypes [L, in]: of what is left of them.
    general_down [in, g], general_up [g, out]: the general one, `weight` in it. None of these learns.
    """

    prototypes: torch.Tensor

    def __init__(self, library: Sequence[Factors], general: Factors, weight: float, top: int) -> None:
        super().__init__()
        downs, ups = zip(*library, strict=True)
        self.down = nn.Parameter(torch.stack(downs), requires_grad=False)
        self.up = nn.Parameter(torch.stack(ups), requires_grad=False)
        self.general_down = nn.Parameter(general[0], requires_grad=False)
        self.general_up = nn.Parameter(weight * general[1], requires_grad=False)
        left = [prototype(*without_general(each, general, weight)) for each in library]
        self.register_buffer("prototypes", torch.stack(left))
        self.top = min(top, len(library))

    def shares(self, x: torch.Tensor) -> torch.Tensor:
        """How much of each update the inputs x [N, in] take, [N, L]; the sum of each row is one."""
        scores = (x @ self.prototypes.to(x.dtype).T).abs()
        best, which = scores.topk(self.top, dim=1)
        return torch.zeros_like(scores).scatter(1, which, best.softmax(1).to(scores.dtype))

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`output` [N, out] of the map with what is added for its input `x` [N, in]."""
        down, up, general_down, general_up = (
            each.to(x.dtype) for each in (self.down, self.up, self.general_down, self.general_up)
        )
        inner = torch.einsum("ni,lir->nlr", x, down) * self.shares(x)[:, :, None]
        output = torch.addmm(output, inner.flatten(1), up.flatten(0, 1))
        return torch.addmm(output, x @ general_down, general_up, alpha=-1)
