"""The attention heads that a model's refusals hang on: Ships and Sahara."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.linalg import subspace_angles
from torch import nn

from taskheads.attention.alone import alone
from taskheads.attention.asked import last_vectors
from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure, averaged
from taskheads.attention.scores import HeadScores
from taskheads.attention.which import AttentionHead, Which
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.composing import then
from taskheads.errors import ConfigError
from taskheads.methods import method

Ablation = Literal["attention", "contribution"]
# What undoes the differences between the scores of a head: small enough for weights that are uniform to 1e-4.
_EPSILON = 1e-6


@method("safety_heads_ships_sahara", family="steer", paper="arXiv:2410.13708")
@dataclass(frozen=True)
class SafetyHeads:
    """Sahara: the group of attention heads whose loss moves a model most where it answers harmful queries,
    chosen greedily, head by head; as a change, their ablation.

    Zhou et al. 2024. What moves is the space that the last tokens' vectors of all queries
    span (their first left singular vectors): the sum of the principal angles between that of the model and
    that of the model without the heads. `ships` says the same of one query at a time, by the distributions of
    the next token.

    Attributes
    ----------
    heads: in the order in which they were chosen. shifts: the angles in radians after each choice.
    ablation: "attention" makes a head look at all tokens alike (its queries are scaled by almost 0),
        "contribution" takes its output out.
    """

    heads: Sequence[AttentionHead]
    shifts: Sequence[float]
    ablation: Ablation = "attention"

    def __call__(self, batch: RaggedBatch, past: Sequence[int] | None = None) -> Changes:
        return ablated(self.heads, self.ablation)

    @classmethod
    def fit(
        cls,
        heads: AttentionHeads,
        harmful: Sequence[RaggedBatch],
        size: int,
        *,
        which: Which = "all",
        rank: int = 4,
        ablation: Ablation = "attention",
    ) -> SafetyHeads:
        """A group of `size` heads; a pass over the queries for each head that may be chosen, and choice."""
        if not 0 < size <= len(heads.which(which)):
            raise ConfigError(f"no group of {size} can be chosen from {len(heads.which(which))} heads")
        group: list[AttentionHead] = []
        shifts: list[float] = []
        for _ in range(size):
            found = subspace_shifts(heads, harmful, group, which=which, rank=rank, ablation=ablation)
            group += found.top(1)
            shifts.append(float(found.values[group[-1]]))
        return cls(tuple(group), tuple(shifts), ablation)


def ablated(heads: Iterable[tuple[int, int]], ablation: Ablation, epsilon: float = _EPSILON) -> Changes:
    """The changes that ablate some heads, see `SafetyHeads`; `epsilon` is what queries are scaled by."""
    if ablation == "contribution":
        return scaled(heads, 0)
    return scaled(heads, epsilon, part="query")


def ships(
    heads: AttentionHeads,
    language_head: nn.Module,
    harmful: Iterable[RaggedBatch],
    *,
    which: Which = "all",
    ablation: Ablation = "attention",
) -> HeadScores:
    """Ships of each head: KL(p ‖ p without it), in nats, of the next token after a query; the mean of all."""

    def scored(batch: RaggedBatch) -> torch.Tensor:
        with torch.inference_mode():
            measure = _divergence(language_head, last_vectors(heads.backbone, batch))
        return alone(heads, batch, measure, lambda head: ablated([head], ablation), which)

    return averaged(heads, harmful, scored, ablation=ablation)


@torch.inference_mode()
def subspace_shifts(
    heads: AttentionHeads,
    harmful: Sequence[RaggedBatch],
    given: Sequence[AttentionHead] = (),
    *,
    which: Which = "all",
    rank: int = 4,
    ablation: Ablation = "attention",
) -> HeadScores:
    """Ships of a whole data set, in radians: how far the space of the last tokens' vectors turns when a head
    is ablated along with those `given`; NaN for these."""
    backbone, before = heads.backbone, ablated(given, ablation)

    def vectors(changes: Changes | None = None) -> torch.Tensor:
        return torch.cat([last_vectors(backbone, batch, changes) for batch in harmful])

    plain = vectors()
    values = torch.full(heads.shape, torch.nan)
    for head in set(heads.which(which)) - set(given):
        values[head] = turned(plain, vectors(then(before, ablated([head], ablation))), rank)
    about = {"n": len(plain), "rank": rank, "ablation": ablation, "given": [str(head) for head in given]}
    return HeadScores.of(values, fingerprint=backbone.fingerprint, **about)


def turned(vectors: torch.Tensor, others: torch.Tensor, rank: int) -> float:
    """The sum of the principal angles, in radians, between the spaces of the first `rank` left singular
    vectors of two sets of vectors as columns, each [n, D]."""
    rank = min(rank, *vectors.shape)
    spaces = [
        np.linalg.svd(each.double().cpu().numpy().T, full_matrices=False)[0][:, :rank]
        for each in (vectors, others)
    ]
    return float(subspace_angles(*spaces).sum())


def _divergence(language_head: nn.Module, vectors: torch.Tensor) -> Measure:
    likely = language_head(vectors).log_softmax(-1)
    return lambda others: (likely.exp() * (likely - language_head(others).log_softmax(-1))).sum(-1)
