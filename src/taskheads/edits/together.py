"""One batch, asked for many tasks: the layers below every edit run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from taskheads.backbone.changes import Changes, Lower
from taskheads.backbone.running import Batch
from taskheads.backbone.sites import layer_of
from taskheads.edits.edited import Edited


def run_together(
    edited: Edited, batch: Batch, read: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, torch.Tensor]]:
    """For each task of `read`, the sites that it reads of this batch, as `edited.of(task).run` gives them.

    The layers below all of these tasks' edits, and the sites there, are computed once; what is above is a
    pass of its own for each task, so that no bit of its result depends on which others there are.
    """
    changes = {task: edited.changes_of(task, batch) for task in read}
    layer = min(each.lowest(edited.layout) for each in changes.values())
    low = dict.fromkeys(site for sites in read.values() for site in sites if layer_of(site) < layer)
    lower, found = Lower(layer), {task: dict[str, torch.Tensor]() for task in read}
    below: dict[str, torch.Tensor] = {}
    for task, sites in read.items():
        high = [site for site in sites if site not in low]
        if high:
            wanted = high if below or not low else [*low, *high]
            made = edited.trunk.run(batch, wanted, replace(changes[task], lower=lower))
            below = below or {site: made[site] for site in low}
            found[task] = {site: made[site] for site in high}
    if low and not below:
        below = edited.trunk.run(batch, list(low), Changes())
    for task, sites in read.items():
        found[task] |= {site: below[site] for site in sites if site in low}
    return found
