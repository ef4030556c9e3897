"""Which share of the rows of every training step each task has."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from taskheads.methods import method

# The least share of a task under `dynamic_sampling`, in parts of an equal share.
_FLOOR = 0.1


@method("temperature_sampling", family="sharing", paper="arXiv:1907.05019")
def temperature_shares(sizes: Mapping[str, float], temperature: float = 2.0) -> dict[str, float]:
    """Give each task the share n^(1/T) of its size n, over the sum of all (Arivazhagan et al. 2019, 4.2).

    `sizes` are numbers of rows. T = 1 is proportional sampling, T = infinity uniform; in between, small tasks
    are seen more often than their size says, and large ones not much less. Returns shares that sum to 1.
    """
    weights = np.asarray(list(sizes.values()), float) ** (1.0 / temperature)
    return dict(zip(sizes, (weights / weights.sum()).tolist(), strict=True))


def first_shares(sizes: Mapping[str, float], sampling: str, temperature: float) -> dict[str, float]:
    """The tasks' shares at the start of a run, from how many rows they have: by temperature, of which
    "proportional" and "uniform" are the ends. "dynamic" begins as "temperature" does."""
    return temperature_shares(sizes, {"proportional": 1.0, "uniform": math.inf}.get(sampling, temperature))


@method("dynamic_sampling", family="sharing", paper="Gottumukkala et al. 2020, ACL")
def dynamic_shares(now: Mapping[str, float], alone: Mapping[str, float]) -> dict[str, float]:
    """Give each task a share in proportion to how far its dev score is behind the one it had alone
    (Gottumukkala et al. 2020, "Dynamic sampling strategies for multi-task reading comprehension", 3).

    `now` and `alone` are utilities, higher is better; `alone` is the frozen head's. A task that is ahead
    keeps a tenth of an equal share, so that none is forgotten. Returns shares that sum to 1.
    """
    gaps = np.asarray([max(0.0, alone[name] - now[name]) / max(abs(alone[name]), 1e-9) for name in now])
    equal = 1.0 / len(gaps)
    shares = gaps / gaps.sum() if gaps.sum() > 0 else np.full(len(gaps), equal)
    shares = np.maximum(shares, _FLOOR * equal)
    return dict(zip(now, (shares / shares.sum()).tolist(), strict=True))
