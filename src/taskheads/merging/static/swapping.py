"""Layers of one model in the middle of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from taskheads.errors import ConfigError
from taskheads.merging.static.merge import Group, Mix, between
from taskheads.methods import method


@method("layer_swapping", family="merging", paper="arXiv:2410.01335")
@dataclass(frozen=True)
class LayerSwapping(Mix):
    """Layer swapping: the lowest and the highest layers of a language expert, the middle ones of a task
    expert, and the mean of both between them (Bandarkar et al. 2024).

    The first model is the task expert (the middle), the second the language expert (the ends). What stands in
    no layer (embeddings, the last norm, an output head) is the language expert's.

    Parameters
    ----------
    bottom, top: how many of the lowest and of the highest layers are the language expert's alone. The paper
        chooses them from where each expert has moved most.
    transition: how many layers next to each end are the mean of both, at equal shares. They are left out at
        an end of no layers. The weights of the recipe have no part in it.
    """

    bottom: int = 4
    top: int = 2
    transition: int = 1
    needs_base: ClassVar[bool] = False
    models: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        for name in ("bottom", "top", "transition"):
            between(f"layer_swapping: {name}", getattr(self, name), 0, float("inf"))

    def mixture(self, group: Group) -> tuple[Sequence[float], float]:
        share = self._language_share(group)
        return [1 - share, share], 0.0

    def _language_share(self, group: Group) -> float:
        if self.bottom + self.top > group.layers:
            raise ConfigError(
                f"layer_swapping: bottom {self.bottom} and top {self.top} are more than the model's "
                f"{group.layers} layers"
            )
        if group.layer is None:
            return 1.0 if self.bottom + self.top else 0.0
        above, below = group.layer - self.bottom, group.layers - self.top - 1 - group.layer
        if above < 0 or below < 0:
            return 1.0
        near_bottom = self.bottom and above < self.transition
        near_top = self.top and below < self.transition
        return 0.5 if near_bottom or near_top else 0.0
