"""The basis of what a head gathers, of parts that are made once for all heads that gather the same."""

from __future__ import annotations

import torch

from taskheads.backbone.reads import Read
from taskheads.heads import LinearHead
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import Examples
from taskheads.training.solver import Basis, Block


def basis_of(
    features: FrozenFeatures, head: LinearHead, examples: Examples
) -> tuple[Basis, list[int] | None]:
    """The basis of what `head` gathers for these rows, and the rows' numbers of words where they have any.

    What it gathers of each read is a block; a block and the product of two are kept for every other set of
    reads with them in it.
    """

    def reading(*reads: Read) -> LinearHead:
        return type(head)(head.task, reads, head.width)

    def block(read: Read) -> tuple[Block, list[int] | None]:
        def make() -> tuple[Block, list[int] | None]:
            gathered = features.gather(reading(read), examples)
            return equalised(gathered.features), gathered.lengths

        return features.once("block", reading(read), examples, make)

    def make() -> tuple[Basis, list[int] | None]:
        found = [block(read) for read in head.reads]
        blocks = [each for each, _ in found]
        read_of = dict(zip(blocks, head.reads, strict=True))

        def product(one: Block, other: Block) -> torch.Tensor:
            both = reading(read_of[one], read_of[other])
            return features.once("product", both, examples, lambda: (one.product(other),))[0]

        return Basis(blocks, product), found[0][1]

    return features.once("basis", head, examples, make)


def equalised(features: torch.Tensor) -> Block:
    """These features, which are not needed any more, as a block of mean square one.

    Reads differ in scale; this makes a penalty fair to all.
    """
    mean = features.mean(0)
    norm = float(torch.linalg.vector_norm(features.sub_(mean)))
    scale = max(norm**2 / max(1, features.numel()), 1e-12) ** -0.5
    return Block(features.mul_(scale), mean * scale, scale)
