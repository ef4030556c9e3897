"""DoRA: the length and the direction of a map's weights learn apart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.low_rank.delta import LowRank
from taskheads.edits.low_rank.lora import Lora
from taskheads.edits.maps import by_name, key, weight_of
from taskheads.methods import method


class Decomposed(nn.Module):
    """A map whose weight W [out, in] becomes m · V / ‖V‖, with V = W + ΔW and ‖·‖ the length of each row.

    m [out] begins as the lengths of the rows of W, so that nothing changes at first. ΔW is of low rank. The
    map's own weight and bias are looked up when they are needed and are no part of this module.
    """

    def __init__(self, delta: LowRank, backbone: Backbone, name: str) -> None:
        super().__init__()
        self.delta = delta
        self._weight = partial(weight_of, backbone, name)
        self._bias = partial(getattr, backbone.model.get_submodule(name), "bias", None)
        # The very sum that is computed later, so that m / ‖V‖ is exactly one at first.
        self.magnitude = nn.Parameter(self._lengths())

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """`output` [N, out] of the map, for its input `x` [N, in], as the decomposed weight makes it."""
        ratio = self.magnitude / self._lengths()
        bias = self._bias()
        plain = output if bias is None else output - bias
        added = self.delta(x, torch.zeros_like(output))
        return output + (ratio - 1).to(output.dtype) * plain + ratio.to(output.dtype) * added

    def weight(self) -> torch.Tensor:
        """The same as a difference to the map's weight, [out, in]."""
        weight = self._weight()
        return (self.magnitude / self._lengths())[:, None] * (weight + self.delta.weight()) - weight

    @torch.no_grad()
    def _lengths(self) -> torch.Tensor:
        """‖V‖ [out], a constant to the gradient (section 4.3: it saves memory and costs no accuracy)."""
        return torch.linalg.vector_norm(self._weight().float() + self.delta.weight(), dim=1)


@method("dora", family="edits", paper="arXiv:2402.09353")
class Dora(Lora):
    """DoRA: each output's row of weights is split into its length, which learns freely, and its direction,
    which learns by a LoRA.

    Liu et al. 2024, equation 5: W' = m · (W + B A) / ‖W + B A‖, the norm taken for each output. Trained:
    rank · (in + out) + out numbers a map. Options as those of `lora`.
    """

    def __init__(self, backbone: Backbone, tasks: Sequence[str], **options: Any) -> None:
        super().__init__(backbone, tasks, **options)
        deltas = by_name(self.maps.to(backbone.device))
        self.maps = nn.ModuleDict(
            {key(name): Decomposed(delta, backbone, name) for name, delta in deltas.items()}
        )
