"""Rows for a cache; as a program, a process that saves them: FOLDER START STOP ROWS WIDTH [KILLED].

With KILLED, the process is killed when the shard of that seed is half written.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from taskheads.backbone.cache import FeatureCache
from taskheads.backbone.reads import Read

MEAN = Read("output", "mean")


def rows(n: int, width: int = 3, seed: int = 0) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
    """Keys, values and sizes of n rows of one vector each; equal seeds give equal rows."""
    keys = np.random.default_rng(seed).integers(0, 256, (n, 16), np.uint8)
    return keys, torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), np.ones(n, np.int64)


def write_half_and_die(path: Path, data: bytes) -> int:
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


if __name__ == "__main__":
    start, stop, n, width, *killed = map(int, sys.argv[2:])
    cache = FeatureCache(sys.argv[1], memory_bytes=1)
    for seed in range(start, stop):
        if seed in killed:
            Path.write_bytes = write_half_and_die  # type: ignore[method-assign]
        cache.save("f", MEAN, *rows(n, width, seed=seed))
