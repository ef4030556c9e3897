"""What attention heads make of a task that is shown to a model by examples."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from taskheads.attention.changing import Found
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.paths import head_outputs
from taskheads.attention.where import At
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError


def mean_last_outputs(heads: AttentionHeads, batches: Iterable[RaggedBatch]) -> Found:
    """The output of every attention head at a row's last token, its mean over all rows, by site
    [heads, width]. Raises ConfigError where there is no row."""
    sums: dict[str, torch.Tensor] = {}
    count = 0
    for batch in batches:
        last = At([-1]).tokens(batch)
        for site, z in head_outputs(heads, batch).items():
            sums[site] = sums.get(site, 0) + z[last].sum(0)
        count += len(batch)
    if not count:
        raise ConfigError("there is no row that shows the task")
    return {site: total / count for site, total in sums.items()}
