"""The basis of what a head gathers, made once for all heads that gather the same."""

from __future__ import annotations

import numpy as np
import torch

from taskheads.heads import Head
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import Examples
from taskheads.training.solver import Basis


class Equalised(Basis):
    """The basis of features that are `blocks` reads side by side.

    Reads differ in scale; each is brought to mean square one, so that a penalty is fair to all. `scale` [d]
    is what the features are multiplied by.
    """

    def __init__(self, features: torch.Tensor, blocks: int) -> None:
        self.blocks = blocks
        super().__init__(features)

    def _centred(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, centred = super()._centred(features)
        rows = centred.numpy()
        # torch's own sums of squares over rows take twenty times as long.
        squares = torch.from_numpy(np.einsum("nd,nd->d", rows, rows)) / max(1, len(rows))
        of_block = squares.view(self.blocks, -1).mean(1)
        self.scale = of_block.clamp_min(1e-12).rsqrt().repeat_interleave(len(squares) // self.blocks)
        return mean * self.scale, centred.mul_(self.scale)


def basis_of(features: FrozenFeatures, head: Head, examples: Examples) -> tuple[Equalised, list[int] | None]:
    """The basis of what `head` gathers for these rows, and the rows' numbers of words where they have any."""

    def make() -> tuple[Equalised, list[int] | None]:
        gathered = features.gather(head, examples)
        return Equalised(gathered.features, len(head.reads)), gathered.lengths

    return features.once("basis", head, examples, make)
