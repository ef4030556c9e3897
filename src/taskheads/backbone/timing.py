"""How long passes take."""

from __future__ import annotations

import time

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch

_PASSES = 7


@torch.inference_mode()
def seconds_of_pass(first: Backbone, second: Backbone, batch: RaggedBatch) -> tuple[float, float]:
    """Seconds of a pass over the batch on two backbones, in turn; the least of several."""
    taken: dict[Backbone, list[float]] = {first: [], second: []}
    for _ in range(_PASSES):
        for backbone, mine in taken.items():
            started = time.perf_counter()
            backbone.run(batch)["output"].sum().item()  # a device has done its work when it is read
            mine.append(time.perf_counter() - started)
    return min(taken[first]), min(taken[second])
