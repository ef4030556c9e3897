"""A scale and a shift for each channel: what norms learn, and the foldable part of Diffscaler."""

from __future__ import annotations

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.maps import as_stored, bias_name, weight_of


class Affine(nn.Module):
    """a · y + b for the output y [N, out] of a linear map or a norm; a begins at one and b at zero.

    shift: whether there is a b.
    """

    def __init__(self, width: int, *, shift: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width)) if shift else None

    def forward(self, _x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = y * self.scale
        return y if self.shift is None else y + self.shift

    def folded(self, backbone: Backbone, name: str) -> dict[str, torch.Tensor]:
        """The linear map's own weight and bias, by name, which do the same: a · W and a · bias + b.

        Raises ConfigError where there is a shift and the map has no bias to take it.
        """
        bias = getattr(backbone.model.get_submodule(name), "bias", None)
        weight = weight_of(backbone, name) * self.scale[:, None]
        found = {f"{name}.weight": as_stored(backbone, name, weight)}
        if self.shift is not None:
            bias_name(backbone, name)
        if bias is not None:
            found[f"{name}.bias"] = bias * self.scale + (0 if self.shift is None else self.shift)
        return found
