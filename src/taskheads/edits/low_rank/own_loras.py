"""A LoRA for each of several tasks in one edit: the library that methods over many LoRAs begin from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, Own
from taskheads.edits.low_rank.delta import LowRank
from taskheads.edits.maps import Targets, as_stored, by_name, key, targeted, task_key, weight_of, widths


class OwnLoras(Edit):
    """Each task has a LoRA of its own: alone they are as the edits of `lora` are.

    Parameters
    ----------
    targets, rank, alpha, layers: as those of `lora`.
    """

    shared: ClassVar[bool] = True
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
        names = targeted(backbone, targets, layers)
        self.library = nn.ModuleDict(
            {
                task_key(task): nn.ModuleDict(
                    {key(name): LowRank(*widths(backbone, name), rank, alpha / rank) for name in names}
                )
                for task in tasks
            }
        )

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        return Own(maps=self.of(task))

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": as_stored(backbone, name, weight_of(backbone, name) + delta.weight())
            for name, delta in self.of(task).items()
        }

    def forget(self, task: str) -> None:
        super().forget(task)
        del self.library[task_key(task)]

    def of(self, task: str) -> dict[str, LowRank]:
        """The LoRA of a task, by the names of the maps."""
        return by_name(self.library[task_key(task)])
