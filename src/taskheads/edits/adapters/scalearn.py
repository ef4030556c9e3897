"""ScaLearn: adapters of several tasks added up, each multiplied by what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.adapters.library import Composition, LibraryEdit
from taskheads.errors import ConfigError
from taskheads.methods import method
from taskheads.tasks.suggest import did_you_mean

# By variant: whether each layer has scales of its own, and whether each channel has.
VARIANTS = {
    "scalearn": (True, True),
    "scalearn_uniform": (True, False),
    "scalearn++": (False, True),
    "scalearn_uniform++": (False, False),
}


class Scales(Composition):
    """Σₛ wₛ ∘ zₛ for what the adapters would add, z [N, adapters, width].

    w [layers, adapters, width] has length one where all layers, or all channels, have the same. It begins
    near 1 / adapters, the average.

    Parameters
    ----------
    shape: that of w. places: the names of the layers' places, from bottom to top.
    dropout: the share of w that is zeroed in a step of training.
    """

    def __init__(self, shape: tuple[int, int, int], places: Sequence[str], dropout: float) -> None:
        super().__init__()
        self.scales = nn.Parameter(1 / shape[1] + 1e-3 * torch.randn(shape))
        self.dropout = nn.Dropout(dropout)
        self.number = {place: number if shape[0] > 1 else 0 for number, place in enumerate(places)}

    def forward(self, place: str, y: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        return (self.dropout(self.scales[self.number[place]]) * added).sum(1)


@method("scalearn", family="edits", paper="arXiv:2310.01217")
class ScaLearn(LibraryEdit):
    """ScaLearn: each task trains an adapter, then learns with which factors to add up the adapters of all
    tasks, which stay as they are.

    Frohmann et al. 2024, section 3. The factors need not be positive nor have the sum one. Trained in stage
    two for S adapters in L layers of width d: "scalearn" L·S·d numbers a task, "scalearn_uniform" (one for
    all channels) L·S, "scalearn++" (one for all layers) S·d, "scalearn_uniform++" S.

    Parameters
    ----------
    inner, activation, layers, sources: see `taskheads.edits.library.LibraryEdit`.
    variant: one of the four above. dropout: the share of factors that is zeroed in a step of training, the
        authors' 0.3 by default; they have none in "scalearn_uniform++", nor does this.
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        variant: str = "scalearn",
        dropout: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(backbone, tasks, **options)
        if variant not in VARIANTS:
            raise ConfigError(
                f"scalearn has no variant {variant!r}{did_you_mean(variant, list(VARIANTS))}: "
                + ", ".join(VARIANTS)
            )
        by_layer, by_channel = VARIANTS[variant]
        if dropout is None:
            dropout = 0.3 if by_layer or by_channel else 0.0
        places = self.library.places
        shape = (len(places) if by_layer else 1, len(self.library), backbone.width if by_channel else 1)
        self.compose(lambda: Scales(shape, places, dropout))

    def rate_of(self, parameter: str) -> float:
        return 6.0 if parameter.startswith("compositions.") else 1.0  # the authors' 6e-3
