"""AdapterFusion: attention over the adapters of several tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.adapters.library import Composition, LibraryEdit
from taskheads.edits.maps import key
from taskheads.methods import method


class Fusion(nn.Module):
    """Attention of a token h [N, width] over what adapters would add to it, z [N, adapters, width]:
    Σₙ sₙ V zₙ with s = softmax((Q h + b) · (K zₙ)). V begins as the identity, up to 1e-6.

    A bias of the keys would be the same for all adapters, and so make no difference.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Parameter(0.02 * torch.randn(width, width))
        self.value = nn.Parameter(torch.full((width, width), 1e-6).fill_diagonal_(1.0))
        nn.init.normal_(self.query.weight, std=0.02)
        nn.init.zeros_(self.query.bias)

    def weights(self, h: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """s [N, adapters]; the sum of a token's is one."""
        # (Q h) · (K z) = (Kᵀ Q h) · z, so that one product serves all adapters.
        return torch.einsum("nd,nad->na", self.query(h) @ self.key, z).softmax(-1)

    def forward(self, h: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return torch.einsum("na,nad->nd", self.weights(h, z), z) @ self.value.T


class Fusions(Composition):
    """A `Fusion` at each place."""

    def __init__(self, places: Sequence[str], width: int) -> None:
        super().__init__()
        self.at = nn.ModuleDict({key(place): Fusion(width) for place in places})

    def forward(self, place: str, y: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        return self.at[key(place)](y, added)


@method("adapter_fusion", family="edits", paper="arXiv:2005.00247")
class AdapterFusion(LibraryEdit):
    """AdapterFusion: each task trains an adapter, then attends to the adapters of all tasks, which stay as
    they are.

    Pfeiffer et al. 2021, section 3.2: the query is what the feed-forward block gives, keys and values are
    what the adapters add to it; the residual is added afterwards, as in the authors' code. The value matrix
    is kept near the identity by a penalty. Without the dropout that the authors have on the scores.

    Parameters
    ----------
    inner, activation, layers, sources: see `taskheads.edits.library.LibraryEdit`.
    identity: weight of the penalty |V - I|², summed over layers.
    """

    def __init__(
        self, backbone: Backbone, tasks: Sequence[str], *, identity: float = 0.01, **options: Any
    ) -> None:
        super().__init__(backbone, tasks, **options)
        self.identity = identity
        self.compose(lambda: Fusions(self.library.places, backbone.width))

    def rate_of(self, parameter: str) -> float:
        return 0.5 if parameter.startswith("compositions.") else 1.0  # as the authors' 5e-5 to 1e-4

    def penalty(self) -> torch.Tensor | None:
        values = [each.value for each in self.compositions.modules() if isinstance(each, Fusion)]
        if not values:
            return None
        eye = torch.eye(len(values[0]), device=self.device)
        return self.identity * torch.stack([(value - eye).square().sum() for value in values]).sum()
