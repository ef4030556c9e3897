"""FLoRA: updates of low Tucker rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, Own
from taskheads.edits.low_rank.tucker import TuckerLinear
from taskheads.edits.maps import Targets, as_stored, by_name, key, targeted, weight_of, widths
from taskheads.methods import method


@method("flora_tucker", family="edits", paper="arXiv:2405.14739")
class FloraTucker(Edit):
    """FLoRA: to each chosen linear map adds s · A₁ G A₂ᵀ, a Tucker decomposition whose core G learns between
    the two factors.

    Si et al. 2024, section 3: on a matrix, LoRA with a core r × r, which here begins at zero. Kernels of
    convolutions keep their order with `taskheads.edits.tucker.TuckerConv2d`. Trained: rank · (in + out) +
    rank² numbers a map.

    Parameters
    ----------
    targets: the maps, see `taskheads.edits.maps.targeted`; queries, keys and values by default.
    rank: of both modes. scale: s; with 4, and this rate, it learns about as fast as `lora` does with its own.
    layers: of these alone.
    """

    lr = 3e-3

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        targets: Targets = "attention",
        rank: int = 8,
        scale: float = 4.0,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        names = targeted(backbone, targets, layers)
        self.maps = nn.ModuleDict(
            {key(name): TuckerLinear(*widths(backbone, name), rank, scale) for name in names}
        )

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        return Own(maps=by_name(self.maps))

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": as_stored(backbone, name, weight_of(backbone, name) + delta.weight())
            for name, delta in by_name(self.maps).items()
        }
