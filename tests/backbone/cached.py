"""Rows for a cache; as a program, a process that saves them: FOLDER START STOP ROWS WIDTH."""

from __future__ import annotations

import sys

import numpy as np
import torch

from taskheads.backbone.cache import FeatureCache
from taskheads.backbone.reads import Read

MEAN = Read("output", "mean")


def rows(n: int, width: int = 3, seed: int = 0) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """Keys, values and sizes of n rows of one vector each; equal seeds give equal rows."""
    keys = np.random.default_rng(seed).integers(0, 256, (n, 16), np.uint8)
    return keys, torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), np.ones(n, np.int64)


if __name__ == "__main__":
    start, stop, n, width = map(int, sys.argv[2:])
    cache = FeatureCache(sys.argv[1], memory_bytes=1)
    for seed in range(start, stop):
        cache.save("f", MEAN, *rows(n, width, seed=seed))
        print(seed, flush=True)
