"""Attention knockout between groups of tokens: where, and in which layers, information moves."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from taskheads.attention.asked import last_vectors
from taskheads.attention.changing import blocked
from taskheads.attention.direct import final_norm
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import pool
from taskheads.errors import ConfigError
from taskheads.methods import method


def between(batch: RaggedBatch, sources: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The edges [N, longest row] by which the targets look at the sources of their own rows; both are groups
    of tokens, bool [N]."""
    places = torch.arange(max(batch.lengths), device=batch.ids.device)
    row = batch.row_of_token
    inside = places < batch.counts[row][:, None]
    at = (batch.starts[row][:, None] + places).clamp_max(len(batch.ids) - 1)
    return targets[:, None] & inside & sources[at]


@method("attention_knockout_flow", family="inspect", paper="arXiv:2411.18620")
@torch.inference_mode()
def attention_knockout_flow(
    heads: AttentionHeads,
    batch: RaggedBatch,
    answer: Measure,
    edges: Mapping[str, torch.Tensor],
    *,
    window: int = 1,
) -> dict[str, torch.Tensor]:
    """By how much the answer's probability changes, as a share of itself, when in a window of layers one
    group of tokens cannot look at another: for each pair of groups [rows, layers]; -1: nothing is left.

    Parameters
    ----------
    answer: the log probability of each row's answer (`measures.log_probability`), at its last token.
    edges: by a name such as "image->question", bool [N, longest row]: who may not look at whom, as `between`
        makes them of two groups.
    window: of so many layers around each, as far as there are any, every attention head is blocked; an odd
        number.

    Zhang et al. 2024, whose windows are wider: models of 32 to 40 layers move things by several of them.
    Raises ConfigError for an even window.
    """
    if window < 1 or window % 2 == 0:
        raise ConfigError(f"a window of {window} layers has no middle one")
    plain = answer(last_vectors(heads.backbone, batch))
    found = {name: plain.new_empty(len(batch), heads.n_layers) for name in edges}
    for name, each in edges.items():
        for layer in range(heads.n_layers):
            near = range(max(0, layer - window // 2), min(heads.n_layers, layer + window // 2 + 1))
            some = [(n, head) for n in near for head in range(heads.counts[n])]
            knocked = answer(last_vectors(heads.backbone, batch, blocked(some, each)))
            found[name][:, layer] = torch.expm1(knocked - plain)
    return found


@torch.inference_mode()
def lens(heads: AttentionHeads, batch: RaggedBatch, measure: Measure) -> torch.Tensor:
    """The logit lens: the measure of each row as if the model ended below the first layer, or after each of
    them, under its final norm [rows, layers + 1]; at the last token."""
    sites = ["embeddings", *(f"layers.{layer}.output" for layer in range(heads.n_layers))]
    found = heads.backbone.run(batch, [*sites, "output"])
    norm = final_norm(heads.backbone, found[sites[-1]], found["output"])
    return torch.stack([measure(pool(norm(found[site]), batch, "last")) for site in sites], 1)
