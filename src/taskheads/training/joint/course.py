"""What happens in a training run, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Course:
    """What happened in a run; `losses` and `dev` hold [step, value] by task.

    lr: the highest rate at which the backbone learns. planned: steps in all. best: the step whose weights
    were kept. tokens: trained on so far, by this process.
    rates: [step, tokens a second].
    gramian: inner products of the tasks' gradients, in the order of `losses`' tasks as the run has them,
        summed over the evaluations.
    """

    lr: float = 0.0
    step: int = 0
    planned: int = 0
    best: int = 0
    tokens: int = 0
    losses: dict[str, list[list[float]]] = field(default_factory=dict)
    dev: dict[str, list[list[float]]] = field(default_factory=dict)
    rates: list[list[float]] = field(default_factory=list)
    gramian: list[list[float]] = field(default_factory=list)

    @property
    def looks(self) -> int:
        """How often dev was looked at."""
        return max((len(told) for told in self.dev.values()), default=0)

    def best_gain(self, alone: Mapping[str, float], looks: int) -> float:
        """The highest `gain` in the first so many looks at dev."""
        shown = range(min(looks, self.looks))
        return max(gain({name: told[at][1] for name, told in self.dev.items()}, alone) for at in shown)


def gain(now: Mapping[str, float], alone: Mapping[str, float]) -> float:
    """How much better dev utilities are than those of frozen heads, as a fraction of these, in the mean of
    the tasks: those with other metrics count alike."""
    return float(np.mean([(now[name] - alone[name]) / max(abs(alone[name]), 0.05) for name in now]))
