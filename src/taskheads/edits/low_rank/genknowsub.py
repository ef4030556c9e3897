"""GenKnowSub: LoRAs without what is general in them, and tokens that choose among those."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, Own
from taskheads.edits.low_rank.arrow import Arrow, Factors, mean_of
from taskheads.edits.low_rank.delta import LowRank
from taskheads.edits.low_rank.own_loras import OwnLoras
from taskheads.edits.maps import Targets, by_name, key, targeted, widths
from taskheads.errors import ConfigError
from taskheads.methods import method


@method("genknowsub", family="edits", paper="arXiv:2505.10939")
class GenKnowSub(OwnLoras):
    """GenKnowSub: from the LoRA of each task a general LoRA is subtracted; then every token, of any task,
    takes a mixture of what is left, chosen by Arrow.

    Bagherifard et al. 2025. Stage one trains a LoRA for each task. Stage two has nothing to train in the
    edit: ΔWᵢ − weight · ΔW_general, the exact difference of the products, is the library over which the
    tokens of all tasks are routed (`taskheads.edits.arrow.Arrow`), and the heads learn to read that. The
    general LoRA is that of one of the tasks, whose data should be of no domain; where none is named it is the
    mean of all tasks' LoRAs, our reading for those who have no such data.

    Parameters
    ----------
    general: the task whose LoRA is the general one and no part of the library.
    weight: how much of it is subtracted. top: how many LoRAs a token takes; 3, as PEFT's Arrow has it.
    library: the tasks whose LoRAs are routed over already: then there is no first stage.
    targets, rank, alpha, layers: as those of `lora`.
    """

    stages = 2

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        general: str | None = None,
        weight: float = 1.0,
        top: int = 3,
        library: Sequence[str] | None = None,
        targets: Targets = "attention",
        rank: int = 8,
        alpha: float = 16.0,
        layers: Sequence[int] | None = None,
    ) -> None:
        if top < 1:
            raise ConfigError(f"genknowsub: a token takes one LoRA at least, not top={top}")
        if library is None and general is not None and general not in tasks:
            raise ConfigError(f"genknowsub: the general task {general!r} is not among its tasks")
        if library is None and len(tasks) < 2:
            raise ConfigError("genknowsub subtracts one LoRA from others, and so needs two tasks at least")
        owners = tasks if library is None else ()
        super().__init__(backbone, owners, targets=targets, rank=rank, alpha=alpha, layers=layers)
        self.tasks = list(tasks)
        self.general, self.weight, self.top, self.routes = general, weight, top, library is not None
        self.arrows = nn.ModuleDict()
        for name in targeted(backbone, targets, layers) if library is not None else ():
            into, out = widths(backbone, name)
            nothing = torch.zeros(into, rank), torch.zeros(rank, out)
            self.arrows[key(name)] = self._arrow(
                [nothing] * len(library or ()), None if general is None else nothing
            )

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        return Own(maps=by_name(self.arrows)) if self.routes else super().own(task, lengths)

    def following(self, backbone: Backbone) -> Edit | None:
        if self.routes:
            return None
        owners = [task for task in self.tasks if task != self.general]
        options = self.options | {"library": owners}
        second = GenKnowSub(backbone, self.tasks, **options)
        second.options = options
        for name in self.of(owners[0]):
            factors = {task: _factors(self.of(task)[name]) for task in self.tasks}
            general = None if self.general is None else factors[self.general]
            second.arrows[key(name)] = self._arrow([factors[task] for task in owners], general)
        return second.to(self.device)

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        if self.routes:
            raise ConfigError(
                "genknowsub cannot be folded into weights: each token takes a mixture of its own"
            )
        return super().fold(backbone, task)

    def forget(self, task: str) -> None:
        if self.routes:  # its LoRA stays, since the others' tokens choose it too
            self.tasks.remove(task)
        else:
            super().forget(task)

    def _arrow(self, library: Sequence[Factors], general: Factors | None) -> Arrow:
        return Arrow(library, mean_of(library) if general is None else general, self.weight, self.top)


def _factors(delta: LowRank) -> Factors:
    return delta.down.detach().T, delta.scale * delta.up.detach()
