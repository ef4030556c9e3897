"""One direction of the residual stream that says whether a model answers from its context or from memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from taskheads.attention.asked import descend, last_vectors
from taskheads.attention.changed import Changing
from taskheads.attention.measures import Measure
from taskheads.attention.where import At
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import pool
from taskheads.errors import ConfigError
from taskheads.methods import method


@dataclass(frozen=True)
class Swap:
    """Rows, and as many others that were given another intent (to answer from the context, say, and not from
    memory).

    Attributes
    ----------
    base, source: the rows. wanted: of each row of `base`, how likely it is to be answered as the intent of
        `source` demands: a log probability. intent: what `source` was told.
    """

    base: RaggedBatch
    source: RaggedBatch
    wanted: Measure
    intent: str

    def __post_init__(self) -> None:
        if len(self.base) != len(self.source):
            raise ConfigError(f"{len(self.base)} rows cannot be swapped with {len(self.source)}")


@method("context_knob_subspace", family="steer", paper="arXiv:2411.07404")
@dataclass(frozen=True)
class ContextKnob:
    """A knob for context sensitivity: in one layer, what stands along one direction u of the residual stream
    at the last token is set to a constant, h ← h + (c - u·h) u, one c for each intent.

    Minder et al. 2025. u is learned by interchange: with what stands along u in a row of
    the other intent, a row is to be answered as that intent demands. The model is frozen, and the knob turns
    siblings of it, which were never told intents.

    Attributes
    ----------
    layer: after which it stands. direction: u, of length 1 [D]. settings: c by intent.
    """

    layer: int
    direction: torch.Tensor
    settings: Mapping[str, float]

    def at(self, setting: str | float) -> Changing:
        """The change with the knob at an intent, or at any number."""
        value = self.settings[setting] if isinstance(setting, str) else setting
        return lambda batch, past: along(self.layer, self.direction, value, batch, past)

    def swapped(self, backbone: Backbone, swap: Swap) -> Changes:
        """The change of a pass over `base` in which what stands along u is that of `source`."""
        there = _streams(backbone, swap.source)[self.layer] @ self.direction
        return along(self.layer, self.direction, there, swap.base)

    @classmethod
    def fit(
        cls,
        backbone: Backbone,
        swaps: Sequence[Swap],
        layer: int | None = None,
        *,
        steps: int = 100,
        lr: float = 0.02,
    ) -> ContextKnob:
        """A knob at a layer, by default the one of the highest `layer_effects`; each c is the mean along u of
        the rows with that intent. u is learned by Adam from the mean difference between the rows of two
        intents on (the authors begin at random, which may end in a direction that turns one intent alone).
        """
        if layer is None:
            layer = int(layer_effects(backbone, swaps).argmax())
        there = [_streams(backbone, swap.source)[layer] for swap in swaps]
        apart = [
            source.mean(0) - _streams(backbone, swap.base)[layer].mean(0)
            for swap, source in zip(swaps, there, strict=True)
            if swap.intent == swaps[0].intent
        ]
        free = nn.functional.normalize(torch.stack(apart).mean(0), dim=0).requires_grad_()

        def loss() -> torch.Tensor:
            u = free / free.norm()
            parts = [
                swap.wanted(last_vectors(backbone, swap.base, along(layer, u, source @ u, swap.base)))
                for swap, source in zip(swaps, there, strict=True)
            ]
            return -torch.cat(parts).mean()

        descend(backbone, [free], loss, steps=steps, lr=lr)
        u = (free / free.norm()).detach()
        told: dict[str, list[torch.Tensor]] = {}
        for swap, source in zip(swaps, there, strict=True):
            told.setdefault(swap.intent, []).append(source @ u)
        return cls(layer, u, {intent: float(torch.cat(each).mean()) for intent, each in told.items()})


def along(
    layer: int,
    u: torch.Tensor,
    value: float | torch.Tensor,
    batch: RaggedBatch,
    past: Sequence[int] | None = None,
) -> Changes:
    """What stands along u, of length 1, at the last token of each row after a layer becomes `value`: a
    number, or one for each row [rows]. Nothing else changes."""
    at = At([-1]).tokens(batch, past).nonzero()[:, 0]

    def change(h: torch.Tensor) -> torch.Tensor:
        return h.index_add(0, at, ((value - h[at] @ u.to(h))[:, None] * u).to(h))

    return Changes(sites={f"layers.{layer}.output": change})


@torch.inference_mode()
def layer_effects(backbone: Backbone, swaps: Sequence[Swap]) -> torch.Tensor:
    """How high the wanted measure gets, on the mean, when the whole residual stream at the last token after
    one layer is that of `source` [layers]. It is high where the stream holds the intent and not yet the
    answer, which would be the source's own. A pass for each layer."""
    there = [_streams(backbone, swap.source) for swap in swaps]

    def effect(layer: int) -> torch.Tensor:
        parts = []
        for swap, source in zip(swaps, there, strict=True):
            changes = _whole(layer, source[layer], swap.base)
            parts.append(swap.wanted(last_vectors(backbone, swap.base, changes)))
        return torch.cat(parts).mean()

    return torch.stack([effect(layer) for layer in range(backbone.n_layers)])


def _whole(layer: int, other: torch.Tensor, batch: RaggedBatch) -> Changes:
    at = At([-1]).tokens(batch).nonzero()[:, 0]
    return Changes(sites={f"layers.{layer}.output": lambda h: h.index_copy(0, at, other)})


@torch.no_grad()
def _streams(backbone: Backbone, batch: RaggedBatch) -> list[torch.Tensor]:
    """The residual stream at the last token of each row, after every layer [rows, D]."""
    sites = [f"layers.{layer}.output" for layer in range(backbone.n_layers)]
    found = backbone.run(batch, sites)
    return [pool(found[site], batch, "last") for site in sites]
