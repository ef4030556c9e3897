"""Attention sinks within a text made smaller, for the heads that answer better so: ACT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from taskheads.attention.alone import alone
from taskheads.attention.asked import Asked
from taskheads.attention.changing import edited
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import averaged
from taskheads.attention.which import AttentionHead, Which
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method


@method("attention_calibration_act", family="steer", paper="arXiv:2406.15765")
@dataclass(frozen=True)
class AttentionCalibration:
    """ACT: in the pattern of a decoder's heads, the weights of tokens after the first one that get far more
    than their share are reduced, and what that frees goes to the others in proportion.

    Yu et al. 2024. The share of a token is the mean of its weights over the queries that can see it; it is a
    sink when that is above `threshold` / length of its row, and each of its weights becomes β times as large.
    It looks at the pattern of the pass at hand: a step of generation at its one query.

    Attributes
    ----------
    heads: those that are calibrated. beta: β, at least 0; 1 changes nothing. threshold: in units of a uniform
        share.
    """

    heads: Sequence[AttentionHead]
    beta: float = 0.4
    threshold: float = 5.0

    def __post_init__(self) -> None:
        if self.beta < 0 or self.threshold <= 0:
            raise ConfigError(f"beta={self.beta} and threshold={self.threshold} calibrate no attention")

    def __call__(self, batch: RaggedBatch, past: Sequence[int] | None = None) -> Changes:
        def edit(layer: int, pattern: torch.Tensor) -> torch.Tensor:
            found = sinks(pattern, batch, self.threshold, past)
            return calibrated(pattern, found[batch.row_of_token], self.beta)

        return edited(self.heads, edit, part="pattern")

    @classmethod
    def fit(
        cls,
        heads: AttentionHeads,
        asked: Asked,
        *,
        which: Which = "all",
        beta: float = 0.4,
        threshold: float = 5.0,
    ) -> AttentionCalibration:
        """With those heads that raise the mean measure of some rows when they are calibrated alone.

        which: heads that may be; the authors leave out the first two layers and the last.
        """
        scores = averaged(
            heads,
            asked,
            lambda batch: alone(
                heads, batch, asked[batch], lambda head: cls([head], beta, threshold)(batch), which
            ),
        )
        return cls(scores.above(0), beta, threshold)


def sinks(
    pattern: torch.Tensor, batch: RaggedBatch, threshold: float, past: Sequence[int] | None = None
) -> torch.Tensor:
    """Which keys of each row are sinks for each head, bool [rows, heads, longest row]; never the first.

    pattern: causal [N, heads, longest row]. past: how many keys came before the rows of this batch.
    """
    before = torch.as_tensor(past or [0] * len(batch), device=pattern.device)
    rows = batch.row_of_token
    keys = torch.arange(pattern.shape[2], device=pattern.device)
    seeing = (keys <= (batch.positions + before[rows])[:, None]).to(pattern.dtype)
    sums = pattern.new_zeros(len(batch), *pattern.shape[1:]).index_add_(0, rows, pattern)
    queries = pattern.new_zeros(len(batch), len(keys)).index_add_(0, rows, seeing)
    shares = sums / queries.clamp_min(1)[:, None]
    return (shares > threshold / (batch.counts + before)[:, None, None]) & (keys > 0)


def calibrated(pattern: torch.Tensor, at: torch.Tensor, beta: float) -> torch.Tensor:
    """The weights [..., keys] with those `at` some keys, bool [..., keys], β times as large, and the rest
    given to the others in proportion; a query without others is left as it is."""
    others = pattern.masked_fill(at, 0).sum(-1, keepdim=True)
    freed = (1 - beta) * pattern.masked_fill(~at, 0).sum(-1, keepdim=True)
    made = torch.where(at, beta * pattern, pattern * (1 + freed / others))
    return torch.where(others > 0, made, pattern)
