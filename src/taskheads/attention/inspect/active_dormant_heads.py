"""Active and dormant attention heads: those that rest on a sink on some texts, and work on others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from taskheads.attention.changing import site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores, Mean
from taskheads.attention.statistics import statistics, to_first
from taskheads.attention.which import AttentionHead
from taskheads.backbone.ragged import RaggedBatch
from taskheads.methods import method


@dataclass(frozen=True)
class Dormancy:
    """Attention of every head to the first token, by domain.

    Attributes
    ----------
    scores: the mean weight of the first token [domains, layers, heads].
    """

    scores: HeadScores

    def dormant(self, domain: str, above: float = 0.8) -> tuple[AttentionHead, ...]:
        """The heads that rest on texts of a domain."""
        return self.scores.of_task(domain).above(above)

    def switching(self, above: float = 0.8, below: float = 0.5) -> tuple[AttentionHead, ...]:
        """The heads that rest on texts of one domain and work on those of another."""
        values = self.scores.values
        both = (values.amax(0) > above) & (values.amin(0) < below)
        return tuple(AttentionHead(*pair) for pair in both.nonzero().tolist())


@method("active_dormant_heads", family="inspect", paper="arXiv:2410.13835")
def active_dormant_heads(heads: AttentionHeads, domains: Mapping[str, Iterable[RaggedBatch]]) -> Dormancy:
    """The mean weight that every attention head gives to a row's first token, by domain of texts: near 1 it
    is dormant there, and adds next to nothing; one that is dormant on one domain alone is active on others.

    Parameters
    ----------
    domains: by name, batches of rows that begin with the token that a sink forms on.

    Guo et al. 2024, who look for heads that change between domains in pretrained models.
    """
    found = {
        name: statistics(heads, batches, {"to_first": to_first})["to_first"]
        for name, batches in domains.items()
    }
    backbone = heads.backbone
    return Dormancy(HeadScores.stacked(found, model=backbone.name, fingerprint=backbone.fingerprint))


@torch.inference_mode()
def quiet_values(heads: AttentionHeads, batches: Iterable[RaggedBatch]) -> HeadScores:
    """For every attention head the norm of the value at the first token of a row, as a share of the mean norm
    at its other tokens: a sink's is far below 1 (Guo et al. 2024: it is drained as attention to it grows).
    Rows of one token do not count."""
    mean = Mean(heads.shape)
    for batch in batches:
        sites = [site_of(layer, "value") for layer in range(heads.n_layers)]
        found = heads.backbone.run(batch, sites)
        rows = torch.full((len(batch), *heads.shape), torch.nan)
        for layer, site in enumerate(sites):
            groups = [heads.key_head(layer, head) for head in range(heads.counts[layer])]
            rows[:, layer, : heads.counts[layer]] = _first_to_others(found[site].norm(dim=-1), batch)[
                :, groups
            ]
        mean.add(rows)
    return mean.scores({"statistic": "quiet_values"})


@torch.inference_mode()
def peaks(heads: AttentionHeads, batches: Iterable[RaggedBatch]) -> torch.Tensor:
    """The norm of the residual stream at a row's first token over its mean norm at the others, after each
    layer [layers], the mean over all rows: far above 1 where residual states peak."""
    sites = [f"layers.{layer}.output" for layer in range(heads.n_layers)]
    found = []
    for batch in batches:
        streams = heads.backbone.run(batch, sites)
        found.append(_first_to_others(torch.stack([streams[site].norm(dim=-1) for site in sites], 1), batch))
    return torch.cat(found).nanmean(0)


def _first_to_others(sizes: torch.Tensor, batch: RaggedBatch) -> torch.Tensor:
    """The number at each row's first token over the mean of its other ones, [N, k] to [rows, k]."""
    first = sizes[batch.starts]
    sums = sizes.new_zeros(len(batch), sizes.shape[1]).index_add(0, batch.row_of_token, sizes)
    return first / ((sums - first) / (batch.counts[:, None] - 1))
