"""The basis of what a head gathers, made once for all heads that gather the same."""

from __future__ import annotations

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
        squares = features.var(0, correction=0).view(blocks, -1).mean(1)
        self.scale = squares.clamp_min(1e-12).rsqrt().repeat_interleave(features.shape[1] // blocks)
        super().__init__(features * self.scale)


def basis_of(features: FrozenFeatures, head: Head, examples: Examples) -> tuple[Equalised, list[int] | None]:
    """The basis of what `head` gathers for these rows, and the rows' numbers of words where they have any."""

    def make() -> tuple[Equalised, list[int] | None]:
        gathered = features.gather(head, examples)
        return Equalised(gathered.features, len(head.reads)), gathered.lengths

    return features.once("basis", head, examples, make)
