"""Talking heads: the few directions by which an attention head is heard in a later one, from weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from taskheads.attention.changing import edited
from taskheads.attention.factored import Factored
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.vocabulary import before_norm, reading_norm
from taskheads.attention.which import AttentionHead
from taskheads.backbone.changes import Changes
from taskheads.methods import method

# Components with a singular value below this share of the first are rounding.
_NOTHING = 1e-5
# The standard deviation of a normal distribution over its median distance from the middle.
_NORMAL = 1.4826
# What a later head does with what it hears: asks by it, is found by it, or passes it on.
Part = Literal["query", "key", "value"]


@dataclass(frozen=True)
class Channel:
    """One component of a sender's OV matrix, and the receiver that hears it; the score, and how many standard
    deviations it lies above the middle one (`Channels.z`)."""

    sender: AttentionHead
    component: int
    receiver: AttentionHead
    score: float
    z: float


@dataclass(frozen=True)
class Channels:
    """Composition scores between heads.

    Attributes
    ----------
    components: [layers, heads, width, layers, heads], from each component of an earlier head's OV matrix,
        by falling singular value, to each head of the layers above; NaN elsewhere.
    whole: the same of the whole OV matrix [layers, heads, layers, heads].
    """

    components: torch.Tensor
    whole: torch.Tensor

    @property
    def z(self) -> torch.Tensor:
        """How far each component's score lies above the middle one, in standard deviations: these from the
        median distance to it, so that outliers do not hide themselves."""
        return _standard(self.components)

    @property
    def whole_z(self) -> torch.Tensor:
        """The same of whole matrices, among themselves."""
        return _standard(self.whole)

    def top(self, count: int) -> list[Channel]:
        """The components that stand out most, first of all."""
        z, (_, n_heads, width, _, _) = self.z, self.components.shape
        order = z.nan_to_num(-torch.inf).flatten().argsort(descending=True, stable=True)[:count]
        found = []
        for place in order.tolist():
            rest, receiver = divmod(place, self.whole[0, 0].numel())
            sender, component = divmod(rest, width)
            pair = (AttentionHead(*divmod(each, n_heads)) for each in (sender, receiver))
            score = float(self.components.flatten()[place])
            found.append(Channel(next(pair), component, next(pair), score, float(z.flatten()[place])))
        return found

    def pairs(self, above: float = 8.0) -> set[tuple[AttentionHead, AttentionHead]]:
        """Senders and receivers with a component whose z is higher; of thousands that are random, one may
        well lie above 5."""
        return {(each.sender, each.receiver) for each in self.top(int((self.z > above).sum()))}


@method("talking_heads_channels", family="inspect", paper="arXiv:2406.09519")
@torch.no_grad()
def talking_heads_channels(heads: AttentionHeads, part: Part = "query") -> Channels:
    """How strongly each rank-1 component of every attention head's OV matrix is heard in the QK (or OV)
    matrix of every head above: ||W_1 W_2|| / (||W_1|| ||W_2||) in Frobenius norms, 1 where all that the
    component writes is all that the other reads. The few that stand out are channels of communication.

    part: what the reader makes of it, "query" or "key" (two sides of QK), or "value" (OV).

    Nothing is run: norms between the two count by their gains (and centring) alone. Merullo, Eickhoff and
    Pavlick 2024.
    """
    width = heads.width
    shape = heads.shape
    components = torch.full((*shape, width, *shape), torch.nan)
    whole = torch.full((*shape, *shape), torch.nan)
    senders = [_of_layer(heads, layer) for layer in range(heads.n_layers)]
    for above in range(1, heads.n_layers):
        norm = reading_norm(heads, above)
        readers = [_reader(heads, above, head, part) for head in range(heads.counts[above])]
        sides, sizes = [], []
        for reader in readers:
            u, values, _ = Factored(before_norm(norm, reader.left.T).T, reader.right).svd()
            sides.append(u * values)
            sizes.append(values.norm())
        read = torch.cat(sides, 1)
        for below in range(above):
            _, values, v = senders[below]
            heard = (v.mT @ read).unflatten(-1, (-1, width)).norm(dim=-1) / torch.stack(sizes)
            spoken = values > _NOTHING * values[:, :1]
            known = heard.masked_fill(~spoken[..., None], torch.nan)
            components[below, : len(v), :, above, : len(readers)] = known
            together = (values[..., None] * heard).norm(dim=1) / values.norm(dim=1)[:, None]
            whole[below, : len(v), above, : len(readers)] = together
    return Channels(components, whole)


def component(heads: AttentionHeads, sender: tuple[int, int], number: int) -> torch.Tensor:
    """The direction in the residual stream [D], of length 1, along which a component of the sender writes."""
    return heads.ov(*sender).svd()[2][:, number].detach()


def without(heads: AttentionHeads, sender: tuple[int, int], numbers: list[int]) -> Changes:
    """The changes of a pass in which a head writes nothing along some components of its OV matrix: as if they
    were taken out of it (and what its values' bias writes there)."""
    layer, head = sender
    output = heads.output_weight(layer)[head].detach()
    directions = heads.ov(layer, head).svd()[2][:, numbers].detach()
    # What the output projection makes of z is to lose its part along the directions, which it can reach.
    lost = output @ directions @ directions.T @ torch.linalg.pinv(output)
    return edited([sender], lambda _, z: z - z @ lost)


def shifted(layer: int, direction: torch.Tensor, by: float, tokens: torch.Tensor) -> Changes:
    """The changes of a pass in which the residual stream after a layer is moved along a channel, [D], at some
    tokens, bool [N]: an item of a list that was not attended may be attended then."""
    move = tokens[:, None] * (by * direction)
    return Changes(sites={f"layers.{layer}.output": lambda stream: stream + move})


def _of_layer(heads: AttentionHeads, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The singular value decompositions of a layer's OV matrices, stacked."""
    found = [heads.ov(layer, head).svd() for head in range(heads.counts[layer])]
    u, values, v = (torch.stack(each) for each in zip(*found, strict=True))
    return u, values, v


def _reader(heads: AttentionHeads, layer: int, head: int, part: Part) -> Factored:
    """The matrix by which a head reads the stream, [D, D]."""
    if part == "value":
        return heads.ov(layer, head)
    return heads.qk(layer, head) if part == "query" else heads.qk(layer, head).T


def _standard(scores: torch.Tensor) -> torch.Tensor:
    middle = scores.nanmedian()
    return (scores - middle) / (_NORMAL * (scores - middle).abs().nanmedian())
