"""Several processes that train one model: each computes its rows of every step, and gradients are summed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from taskheads.heads import Head
from taskheads.training.joint.rows import TaskRows
from taskheads.training.joint.stream import Drawn


@dataclass(frozen=True)
class Workers:
    """The processes of a run: this one's rank, and how many there are."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Workers:
        """Those that torchrun or `accelerate launch` started; otherwise this process alone."""
        if not dist.is_available():
            return cls()
        if not dist.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) < 2:
                return cls()
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, drawn: Drawn, rows: Mapping[str, TaskRows], heads: Mapping[str, Head]) -> Drawn:
        """This process's rows of a step: whole tasks where the loss compares rows with each other, else rows
        dealt out so that all processes have about the same number of tokens."""
        if self.count == 1:
            return drawn
        load = np.zeros(self.count)
        mine: dict[str, list[int]] = {}
        pieces = []
        for name, chosen in drawn.items():
            sizes = rows[name].tokens[chosen]
            if heads[name].additive:
                pieces += [(int(size), name, [int(row)]) for size, row in zip(sizes, chosen, strict=True)]
            else:
                pieces.append((int(sizes.sum()), name, chosen.tolist()))
        for size, name, some in sorted(pieces, key=lambda piece: -piece[0]):
            rank = int(load.argmin())
            load[rank] += size
            if rank == self.rank:
                mine.setdefault(name, []).extend(some)
        return {name: np.asarray(mine[name]) for name in drawn if name in mine}

    def add_up(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes; where a process has none, by what others
        have. What has none in any of them gets none: the optimiser leaves it as it is, as in one process."""
        if self.count == 1:
            return
        learning = [each for each in parameters if each.requires_grad]
        known = self.total(torch.tensor([float(each.grad is not None) for each in learning]))
        learning = [each for each, some in zip(learning, known.tolist(), strict=True) if some]
        if not learning:
            return
        for each in learning:
            if each.grad is None:
                each.grad = torch.zeros_like(each)
        flat = torch.cat([each.grad.flatten() for each in learning])  # type: ignore[union-attr]
        dist.all_reduce(flat)
        parts = flat.split([each.numel() for each in learning])
        for each, part in zip(learning, parts, strict=True):
            each.grad.copy_(part.view_as(each))  # type: ignore[union-attr]

    def any(self, asked: bool) -> bool:
        """Whether any process asks for it."""
        return bool(self.total(torch.tensor(float(asked))))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def agree(self, tensors: Iterable[torch.Tensor]) -> None:
        """Put those of the first process into the tensors of all."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def summed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value's sum over all processes."""
        found = self.total(torch.tensor(list(values.values()), dtype=torch.float64))
        return dict(zip(values, found.tolist(), strict=True))

    def agreed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Those of the first process: what is decided by them is decided alike, whatever the processors."""
        found = torch.tensor(list(values.values()), dtype=torch.float64)
        self.agree([found])
        return dict(zip(values, found.tolist(), strict=True))

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values
