"""Head importance: which attention heads a loss would miss, and the order in which they are pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from taskheads.attention.changing import scaled
from taskheads.attention.estimating import attributed
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure, averaged
from taskheads.attention.scores import HeadScores
from taskheads.attention.which import AttentionHead
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import Pooling, pool
from taskheads.methods import method

# From a batch to its rows' losses, whose answers are those of `batch.rows`.
Asked = Callable[[RaggedBatch], Measure]


@method("head_importance_pruning", family="inspect", paper="arXiv:1905.10650")
def head_importance(
    heads: AttentionHeads,
    batches: Iterable[RaggedBatch],
    loss: Asked,
    *,
    pooling: Pooling = "last",
) -> HeadScores:
    """How much a loss hangs on every attention head: E_x |dL/dξ_h|, ξ_h = 1 a gate on the head's output, over
    the rows x, and divided by the l2 norm of its layer's.

    Parameters
    ----------
    loss: for each batch, from its rows' vectors to their losses. pooling: how a row is read to its vector.

    Michel et al. 2019, equation 2, by one pass forward and one back. The errors are scaled alike; a head that
    does nothing has 0 exactly, and so has a layer of such heads.
    """
    raw = averaged(
        heads,
        batches,
        lambda batch: attributed(heads, batch, loss(batch), pooling=pooling).abs(),
        measured="head importance",
    )
    norms = raw.values.nan_to_num().norm(dim=1, keepdim=True)
    norms = torch.where(norms > 0, norms, 1.0)
    return HeadScores(raw.values / norms, raw.error / norms, raw.manifest)


def pruning_steps(scores: HeadScores, *, step: float = 0.1) -> list[tuple[AttentionHead, ...]]:
    """The heads that are gone at each level of pruning, lowest scores first, a tenth of all heads at a time
    (section 4.1): none at first, all at last. For `taskheads.attention.pruning` or a gate of 0."""
    values = scores.values.mean(0) if scores.tasks else scores.values
    order = scores.top(int((~values.isnan()).sum()), smallest=True)
    levels = round(1 / step)
    return [order[: round(len(order) * level / levels)] for level in range(levels + 1)]


@torch.no_grad()
def left_alone(
    heads: AttentionHeads, batch: RaggedBatch, measure: Measure, *, pooling: Pooling = "last"
) -> torch.Tensor:
    """How much the measure of each row changes when an attention head is the only one left in its layer
    [rows, layers, heads] (section 3.3); a pass for each. `taskheads.attention.scanning.effects` has what
    changes when it alone goes (section 3.2)."""
    plain = measure(pool(heads.backbone.run(batch)["output"], batch, pooling))
    found = plain.new_full((len(batch), *heads.shape), torch.nan)
    for layer, head in heads.which():
        others = [each for each in heads.which(f"{layer}.*") if each.head != head]
        output = heads.backbone.run(batch, changes=scaled(others, 0))["output"]
        found[:, layer, head] = measure(pool(output, batch, pooling)) - plain
    return found
