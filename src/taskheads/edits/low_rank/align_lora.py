"""Align-LoRA: one LoRA for all tasks, whose low-rank space looks the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import MapChange
from taskheads.edits.edit import Own
from taskheads.edits.low_rank.alignment import gaussian_kl, mmd
from taskheads.edits.low_rank.delta import LowRank
from taskheads.edits.low_rank.lora import Lora
from taskheads.edits.maps import by_name
from taskheads.errors import ConfigError
from taskheads.methods import method

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
DISTANCES: dict[str, Distance] = {"kl": gaussian_kl, "mmd": mmd}


@method("align_lora", family="edits", paper="arXiv:2508.05078")
class AlignLora(Lora):
    """Align-LoRA: one LoRA that all tasks share, with a loss that brings the tasks' projections A x together.

    Liu et al. 2025, section 4: the loss is `weight` times the mean, over maps and pairs of tasks in the
    batch, of the distance between the tasks' A x. Each token is a sample (the authors compare position by
    position, which padded rows of equal length allow). A batch with rows of one task alone has no such loss,
    so that batches should mix all tasks.

    Parameters
    ----------
    targets, layers: as those of `lora`. rank, alpha: 32 and 64; one adapter for all needs a higher rank.
    weight: of the loss; 0.01 as the authors' code has it.
    distance: "kl" (symmetric KL of diagonal Gaussians) or "mmd" (maximum mean discrepancy).
    tokens: of a task's, as many at most are compared by "mmd", evenly spaced: it compares each with each.
    """

    shared = True

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        rank: int = 32,
        alpha: float = 64.0,
        weight: float = 0.01,
        distance: str = "kl",
        tokens: int = 128,
        **options: Any,
    ) -> None:
        super().__init__(backbone, tasks, rank=rank, alpha=alpha, **options)
        if distance not in DISTANCES:
            raise ConfigError(f"align_lora knows the distances {' and '.join(DISTANCES)}, not {distance!r}")
        if tokens < 2:
            raise ConfigError(f"align_lora: {tokens} tokens of a task are too few to compare")
        self.weight, self.distance, self.tokens = weight, distance, tokens
        # By map and task, A x [N, rank] of the last pass; what it holds is used up by `penalty`.
        self._seen: dict[str, dict[str, torch.Tensor]] = {}

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        if not (self.training and self.weight and torch.is_grad_enabled()):
            return super().own(task, lengths)
        return Own(maps={name: self._noted(task, name, delta) for name, delta in by_name(self.maps).items()})

    def penalty(self) -> torch.Tensor | None:
        seen, self._seen = self._seen, {}
        distances = [
            DISTANCES[self.distance](first, second)
            for groups in seen.values()
            for first, second in combinations(groups.values(), 2)
            if min(len(first), len(second)) > 1
        ]
        return self.weight * torch.stack(distances).mean() if distances else None

    def _noted(self, task: str, name: str, delta: LowRank) -> MapChange:
        def change(x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            projected = x @ delta.down.T.to(x.dtype)
            step = -(-len(x) // self.tokens) if self.distance == "mmd" else 1
            self._seen.setdefault(name, {})[task] = projected[::step].float()
            return torch.addmm(output, projected, delta.up.to(x.dtype), alpha=delta.scale)

        return change
