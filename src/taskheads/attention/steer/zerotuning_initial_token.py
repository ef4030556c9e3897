"""More or less attention to a text's first token, for chosen heads: ZeroTuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from taskheads.attention.alone import alone
from taskheads.attention.asked import Asked, best_of
from taskheads.attention.changing import reweighted
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure, averaged
from taskheads.attention.scores import HeadScores
from taskheads.attention.where import At
from taskheads.attention.which import AttentionHead, Which
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method


@method("zerotuning_initial_token", family="steer", paper="arXiv:2505.11739")
@dataclass(frozen=True)
class ZeroTuning:
    """ZeroTuning: what chosen attention heads give to the first token is scaled, and every row of weights
    normalised again.

    Han et al. 2025: a₀ ← γ a₀ / D and aᵢ ← aᵢ / D with D = 1 + (γ - 1) a₀, which is log γ added to the first
    token's score. γ > 1 brings the other weights closer together, γ < 1 sets them apart; their ratios stay.
    A text's first token (mostly <s>) means nothing and holds most of the weight, so that one number a head
    moves much. Give it to `Changed`, as all `Changing`.

    Attributes
    ----------
    heads: those that are tuned. gamma: γ, above 0; 1 changes nothing.
    """

    heads: Sequence[AttentionHead]
    gamma: float

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ConfigError(
                f"gamma={self.gamma}: the first token's weight can only be scaled by what is above 0"
            )

    def __call__(self, batch: RaggedBatch, past: Sequence[int] | None = None) -> Changes:
        return reweighted(self.heads, At([0]).keys(batch, past), self.gamma)

    @classmethod
    def fit(
        cls,
        heads: AttentionHeads,
        asked: Asked,
        *,
        which: Which = "all",
        up: float = 1.5,
        down: float = 0.6,
        gammas: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.25, 1.5, 2.0, 3.0),
        share: float = 1.0,
    ) -> ZeroTuning:
        """Profile every head, take those of the type that promises more, and find their γ.

        asked: labelled rows with a measure such as `log_probability`, or any rows with their `certainty`: the
        unsupervised mode. which: heads that may be tuned; those of early layers do most. up, down: the γ that
        a head is profiled with. gammas: what γ is chosen from, beside 1. share: of the heads of the type,
        best first; at least one.
        """
        profiles = {gamma: profile(heads, asked, gamma, which) for gamma in (up, down)}
        found = []
        for gamma, scores in profiles.items():
            helped = scores.above(0)
            some = helped[: max(1, round(share * len(helped)))]
            mine = [g for g in (1.0, *gammas) if (g - 1) * (gamma - 1) >= 0]
            best, value = best_of(heads.backbone, asked, ((g, cls(some, g)) for g in mine))
            found.append((value, cls(some, best)))
        return max(found, key=lambda each: each[0])[1]


def certainty(language_head: nn.Module) -> Measure:
    """Less the entropy of each row's next token, in nats [rows]."""
    return lambda vectors: -torch.special.entr(language_head(vectors).softmax(-1)).sum(-1)


def profile(heads: AttentionHeads, asked: Asked, gamma: float, which: Which = "all") -> HeadScores:
    """How much the measure rises, on the mean, when one head alone has this γ."""
    return averaged(
        heads,
        asked,
        lambda batch: alone(heads, batch, asked[batch], lambda head: ZeroTuning([head], gamma)(batch), which),
        gamma=gamma,
    )
