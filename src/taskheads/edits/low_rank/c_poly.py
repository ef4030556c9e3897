"""C-Poly: skills that all tasks share by a learned allocation, and skills of each task's own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributions import RelaxedBernoulli

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import MapChange
from taskheads.edits.edit import Edit, Own
from taskheads.edits.low_rank.delta import LowRank
from taskheads.edits.maps import Targets, as_stored, by_name, key, targeted, task_key, weight_of, widths
from taskheads.errors import ConfigError
from taskheads.methods import method


class Skills(nn.Module):
    """Some LoRAs side by side on the same maps: `maps[name]` is one LoRA whose rank is skills · rank.

    logits [tasks' names → skills]: how much of each skill a task takes.
    """

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        tasks: Sequence[str],
        skills: int,
        rank: int,
        scale: float,
    ) -> None:
        super().__init__()
        self.skills, self.rank = skills, rank
        self.maps = nn.ModuleDict(
            {key(name): LowRank(*widths(backbone, name), skills * rank, scale) for name in names}
        )
        self.logits = nn.ParameterDict({task_key(task): nn.Parameter(torch.zeros(skills)) for task in tasks})

    def allocation(self, task: str) -> torch.Tensor:
        """The task's share of each skill [skills], their sum one: in training drawn by the Gumbel-sigmoid
        (temperature one), else the sigmoid of the logits, divided by the sum."""
        logits = self.logits[task_key(task)]
        if self.training:
            taken = RelaxedBernoulli(torch.ones((), device=logits.device), logits=logits).rsample()
        else:
            taken = logits.sigmoid()
        return taken / (taken.sum() + 1e-12)

    def weighted(self, shares: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A [in, skills · rank] and scale · B [skills · rank, out], each skill's B times the task's share."""
        delta: LowRank = by_name(self.maps)[name]
        return delta.down.T, delta.scale * shares.repeat_interleave(self.rank)[:, None] * delta.up


@method("c_poly", family="edits", paper="arXiv:2312.03248")
class CPoly(Edit):
    """C-Poly: a task's update is a mixture of LoRAs common to all tasks, by a learned allocation, plus one of
    LoRAs of its own.

    Wang et al. 2023, section 3: ΔW_t = Σ_i w_{t,i} B_i A_i + Σ_j w'_{t,j} B_{t,j} A_{t,j}. The allocation w_t
    is learned with the skills and drawn by the Gumbel-sigmoid in training, divided by its sum; w'_t likewise,
    so that a single own skill has weight one. One allocation serves all maps of a task (our reading).

    Parameters
    ----------
    common, private: how many skills all tasks share, and how many each has for itself; either may be 0.
    targets, layers: as those of `lora`. rank, alpha: of one skill.
    """

    shared = True
    lr = 1e-3

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        common: int = 3,
        private: int = 1,
        targets: Targets = "attention",
        rank: int = 4,
        alpha: float = 8.0,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        if min(common, private) < 0 or common + private == 0:
            raise ConfigError(f"c_poly: common={common} and private={private} leave no skill")
        self.names = targeted(backbone, targets, layers)
        skills = partial(Skills, backbone, self.names, rank=rank, scale=alpha / rank)
        self.common = skills(tasks=tasks, skills=common) if common else None
        self.private = nn.ModuleDict(
            {task_key(task): skills(tasks=[task], skills=private) for task in tasks if private}
        )
        self.eval()  # as a backbone is: nothing is drawn before training begins

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        shares = [(skills, skills.allocation(task)) for skills in self._of(task)]
        return Own(maps={name: self._added(shares, name) for name in self.names})

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        found = {}
        shares = [(skills, skills.allocation(task)) for skills in self._of(task)]
        for name in self.names:
            down, up = _joined(shares, name)
            found[f"{name}.weight"] = as_stored(backbone, name, weight_of(backbone, name) + (down @ up).T)
        return found

    def forget(self, task: str) -> None:
        super().forget(task)
        if self.common is not None:
            del self.common.logits[task_key(task)]
        if task_key(task) in self.private:
            del self.private[task_key(task)]

    def _of(self, task: str) -> list[Skills]:
        """The skills that a task may take: the common ones, and its own."""
        kept: dict[str, Any] = dict(self.private.items())
        own = kept.get(task_key(task))
        return [skills for skills in (self.common, own) if skills is not None]

    def _added(self, shares: Sequence[tuple[Skills, torch.Tensor]], name: str) -> MapChange:
        def change(x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            down, up = _joined(shares, name)
            return torch.addmm(output, x @ down.to(x.dtype), up.to(x.dtype))

        return change


def _joined(shares: Sequence[tuple[Skills, torch.Tensor]], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All skills of a task on one map as one pair of factors, [in, r] and [r, out]."""
    downs, ups = zip(*(skills.weighted(share, name) for skills, share in shares), strict=True)
    return torch.cat(downs, 1), torch.cat(ups)
