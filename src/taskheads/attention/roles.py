"""What attention heads look at, in a word: the role of each by simple statistics of its pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.attention.statistics import Statistic, entropy, statistics, taken, to_first, to_offset
from taskheads.backbone.patterns import Seen
from taskheads.backbone.ragged import RaggedBatch

ENTROPY = "entropy"
SPREAD = "spread"
# An attention head has a role that takes so much of its weight in the mean.
_MOST = 0.5


def to_last(seen: Seen, batch: RaggedBatch) -> torch.Tensor:
    """The weight of the row's last token, the separator of most encoders."""
    lengths = batch.counts[torch.from_numpy(seen.rows).to(batch.ids.device)]
    return taken(seen, lengths[:, None] - 1 + torch.zeros_like(seen.queries))


def pattern_statistics(heads: AttentionHeads, batches: Iterable[RaggedBatch]) -> dict[str, HeadScores]:
    """The mean weight of the previous token, the query's own and the row's first, in an encoder also the next
    and the last, and the entropy in nats: by name, each over the rows of the batches."""
    wanted: dict[str, Statistic] = {
        "previous token": to_offset(-1),
        "own token": to_offset(0),
        "first token": to_first,
    }
    if not heads.backbone.causal:
        wanted |= {"next token": to_offset(1), "last token": to_last}
    return statistics(heads, batches, {**wanted, ENTROPY: entropy})


def roles(found: Mapping[str, HeadScores]) -> list[list[str]]:
    """The name of the token that each attention head gives most of its weight to, [layers][heads], from
    `pattern_statistics`; `SPREAD` where that is less than half, and "" for one that is not there."""
    names = [name for name in found if name != ENTROPY]
    weights = torch.stack([found[name].values for name in names]).nan_to_num(-1.0)
    most, which = weights.max(0)
    called = np.where(most >= _MOST, np.asarray(names)[which.numpy()], SPREAD)
    return np.where(found[ENTROPY].values.isnan(), "", called).tolist()
