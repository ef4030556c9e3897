"""LoRA and its closest kin: differences of low rank to the weights of linear maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, Own
from taskheads.edits.low_rank.delta import LowRank
from taskheads.edits.maps import Targets, as_stored, by_name, key, targeted, weight_of, widths
from taskheads.methods import method


@method("lora", family="edits", paper="arXiv:2106.09685")
class Lora(Edit):
    """LoRA: to each chosen linear map W adds (alpha / rank) · B A, of low rank; B begins at zero.

    Hu et al. 2022, section 4.1. Trained: rank · (in + out) numbers a map.

    Parameters
    ----------
    targets: the maps, see `taskheads.edits.maps.targeted`; queries, keys and values by default.
    rank, alpha: as above. layers: of these alone.
    """

    lr = 1e-3

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        targets: Targets = "attention",
        rank: int = 8,
        alpha: float = 16.0,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        scale = self.scaling(alpha, rank)
        self.maps = nn.ModuleDict(
            {
                key(name): LowRank(*widths(backbone, name), rank, scale)
                for name in targeted(backbone, targets, layers)
            }
        )

    def scaling(self, alpha: float, rank: int) -> float:
        """What the product of the two factors is multiplied by."""
        return alpha / rank

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        return Own(maps=by_name(self.maps))

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": as_stored(backbone, name, weight_of(backbone, name) + delta.weight())
            for name, delta in by_name(self.maps).items()
        }


@method("rslora", family="edits", paper="arXiv:2312.03732")
class RsLora(Lora):
    """Rank-stabilised LoRA: the update is scaled by alpha / √rank, so that high ranks learn as fast as low
    ones.

    Kalajdzievski 2023, theorem 3.2.
    """

    def scaling(self, alpha: float, rank: int) -> float:
        return alpha / math.sqrt(rank)


@method("lora_plus", family="edits", paper="arXiv:2402.12354")
class LoraPlus(Lora):
    """LoRA+: B, the factor that begins at zero, learns `ratio` times as fast as A.

    Hayou et al. 2024, section 4: 16 in their experiments.
    """

    lr = 2e-4

    def __init__(
        self, backbone: Backbone, tasks: Sequence[str], *, ratio: float = 16.0, **options: Any
    ) -> None:
        super().__init__(backbone, tasks, **options)
        self.ratio = ratio

    def rate_of(self, parameter: str) -> float:
        return self.ratio if parameter.endswith(".up") else 1.0
