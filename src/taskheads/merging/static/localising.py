"""TALL masks: where in a merged task vector each task stands, and which places are nobody's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taskheads.merging.static.merge import Block, Combine, Group, Merge, between
from taskheads.methods import method


@method("tall_masks_consensus", family="merging", paper="arXiv:2405.07813")
@dataclass(frozen=True)
class TallMasksConsensus(Merge):
    """Consensus merging: of the sum of all task vectors only elements stay that are important to several
    tasks; those of no task ("catastrophic") and of one ("selfish") go back to the base (Wang et al. 2024).

    An element is task t's where |τₜ| ≥ threshold · |τ - τₜ|, with τ = Σ wₜ τₜ. A task's own mask over τ, kept
    as bits, restores its model: `taskheads.merging.vectors.as_masked`.

    Parameters
    ----------
    threshold: the paper's λ, which it chooses per task from 0.2 to 0.6.
    tasks: in how many tasks an element must count, the paper's k; 0 leaves all.
    scale: one factor for the merged task vector.
    """

    threshold: float = 0.4
    tasks: int = 2
    scale: float = 1.0

    def __post_init__(self) -> None:
        between("tall_masks_consensus: threshold", self.threshold, 0, float("inf"))
        between("tall_masks_consensus: tasks", self.tasks, 0, float("inf"))

    def prepare(self, group: Group) -> Combine:
        def combine(block: Block) -> np.ndarray:
            deltas = block.deltas()
            merged = sum(weight * delta for weight, delta in zip(group.weights, deltas, strict=True))
            votes = sum(np.abs(delta) >= self.threshold * np.abs(merged - delta) for delta in deltas)
            return block.base + self.scale * np.where(np.greater_equal(votes, self.tasks), merged, 0.0)

        return combine
