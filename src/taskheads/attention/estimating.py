"""What changing every attention head would do, estimated from gradients: all of them for a few passes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from taskheads.attention.changing import Found, site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure
from taskheads.backbone.changes import Change
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import Pooling, pool
from taskheads.edits.edited import frozen


@dataclass(frozen=True)
class Slopes:
    """The outputs of all attention heads by site, [N, heads, width], and the gradients there of the sum of
    all rows' measures; a row's own, as rows do not touch. measure: [rows]."""

    values: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    measure: torch.Tensor


def slopes(
    heads: AttentionHeads,
    batch: RaggedBatch,
    measure: Measure,
    *,
    by: Found | None = None,
    share: float = 0.0,
    pooling: Pooling = "last",
) -> Slopes:
    """Gradients of the measure by every attention head's output: a pass forward and one back, in which no
    weight has a gradient.

    share: how far every head is on its way to what replaces it, `by` or nothing, where they are taken: its
        output z is (1 - share) z + share · by. `values` are z, before that.
    """
    sites = [site_of(layer) for layer in range(heads.n_layers)]
    values: dict[str, torch.Tensor] = {}
    probes: dict[str, torch.Tensor] = {}

    def probed(site: str) -> Change:
        def change(z: torch.Tensor) -> torch.Tensor:
            values[site] = z.detach()
            if share:
                z = z * (1 - share) + (0 if by is None else by[site] * share)
            probes[site] = torch.zeros_like(z, requires_grad=True)
            return z + probes[site]

        return change

    with frozen(heads.backbone), torch.enable_grad():
        output = heads.backbone.run(batch, ["output"], {site: probed(site) for site in sites})["output"]
        measured = measure(pool(output, batch, pooling))
        made = torch.autograd.grad(measured.sum(), [probes[site] for site in sites], allow_unused=True)
    gradients = {s: torch.zeros_like(probes[s]) if g is None else g for s, g in zip(sites, made, strict=True)}
    return Slopes(values, gradients, measured.detach())


def attributed(
    heads: AttentionHeads,
    batch: RaggedBatch,
    measure: Measure,
    *,
    by: Found | None = None,
    pooling: Pooling = "last",
) -> torch.Tensor:
    """Attribution patching: the change in each row's measure if one head's output were replaced, to first
    order [rows, layers, heads]: the sum over tokens of (other - z) · gradient.

    Nanda 2023; its absolute value for `by` nothing is the head importance of Michel et al. 2019
    (arXiv:1905.10650), equation 2. by, pooling: as `taskheads.attention.scanning.effects` has them.
    """
    found = slopes(heads, batch, measure, pooling=pooling)
    return _contracted(heads, batch, found, by)


def integrated(
    heads: AttentionHeads,
    batch: RaggedBatch,
    measure: Measure,
    *,
    by: Found | None = None,
    steps: int = 8,
    pooling: Pooling = "last",
) -> torch.Tensor:
    """Integrated gradients of a gate for each head: what `attributed` says, averaged on the way on which all
    heads' gates go from open to shut at once [rows, layers, heads].

    Sundararajan et al. 2017 (arXiv:1703.01365), with the midpoint rule. Over all heads it sums to the change
    of the measure when all are replaced, up to the error of that rule.
    """
    total = torch.zeros(())
    for step in range(steps):
        found = slopes(heads, batch, measure, by=by, share=(step + 0.5) / steps, pooling=pooling)
        total = total + _contracted(heads, batch, found, by) / steps
    return total


def _contracted(
    heads: AttentionHeads,
    batch: RaggedBatch,
    at: Slopes,
    by: Found | None,
) -> torch.Tensor:
    some = next(iter(at.values.values()))
    found = some.new_full((len(batch), *heads.shape), torch.nan)
    for layer, (site, z) in enumerate(at.values.items()):
        step = (0 if by is None else by[site]) - z
        parts = (step * at.gradients[site]).sum(-1)
        rows = parts.new_zeros(len(batch), parts.shape[1]).index_add_(0, batch.row_of_token, parts)
        found[:, layer, : parts.shape[1]] = rows
    return found
