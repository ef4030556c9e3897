"""LoReFT: hidden states are edited in a small subspace, at a few positions of each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, Own
from taskheads.edits.layers import chosen_layers
from taskheads.edits.maps import by_name, key
from taskheads.errors import ConfigError
from taskheads.methods import method


class Intervention(nn.Module):
    """h + Rᵀ (W h + b − R h): inside the subspace that the rows of R span, h becomes what W h + b says;
    outside it nothing changes.

    The rows of R are orthonormal: they are the Gram–Schmidt basis of a free matrix, made anew when needed.
    W begins as R and b as zero, so that nothing changes at first (the authors begin W at random).
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.free = nn.Parameter(nn.init.orthogonal_(torch.empty(width, rank)))
        self.source = nn.Parameter(self.basis().detach().clone())
        self.offset = nn.Parameter(torch.zeros(rank))

    def basis(self) -> torch.Tensor:
        """Rᵀ [width, rank], its columns orthonormal."""
        basis, triangle = torch.linalg.qr(self.free)
        # QR leaves the columns' signs open; these make them follow the free matrix without a jump.
        return basis * triangle.diagonal().sign()

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Hidden states h [N, width], edited."""
        basis = self.basis()
        wanted = h @ (self.source - basis).to(h.dtype) + self.offset.to(h.dtype)
        return h + wanted @ basis.to(h.dtype).T


@method("reft", family="edits", paper="arXiv:2404.03592")
class Reft(Edit):
    """LoReFT: at the first and last tokens of each row, the output of each layer is edited in a learned
    subspace of low rank.

    Wu et al. 2024, equation 2: h ← h + Rᵀ (W h + b − R h), R with orthonormal rows; each layer has its own
    (untied) R, W and b. Trained: (2 · width + 1) · rank numbers a layer, whatever the rows' length.

    Parameters
    ----------
    rank: of the subspace; 8, theirs for commonsense and arithmetic.
    first, last: how many tokens of a row, from either end; a short row's are edited once. 7 and 7, as there.
    layers: of these alone; all by default.
    """

    lr = 1e-3

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        rank: int = 8,
        first: int = 7,
        last: int = 7,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        if not 0 < rank <= backbone.width:
            raise ConfigError(f"reft: a rank of {rank} does not fit into a width of {backbone.width}")
        if min(first, last) < 0 or first + last == 0:
            raise ConfigError(f"reft: first={first} and last={last} leave no token to edit")
        sites = [f"layers.{layer}.output" for layer in chosen_layers(backbone, layers)]
        self.first, self.last = first, last
        self.interventions = nn.ModuleDict({key(site): Intervention(backbone.width, rank) for site in sites})

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        at = torch.tensor(positions(lengths, self.first, self.last), device=self.device, dtype=torch.long)
        return Own({site: _edited(at, each) for site, each in by_name(self.interventions).items()})


def positions(lengths: Sequence[int], first: int, last: int) -> list[int]:
    """Where the `first` and `last` tokens of each row stand, rows of such lengths being laid end to end; each
    place once."""
    found: list[int] = []
    start = 0
    for length in lengths:
        stop = start + length
        found += range(start, min(start + first, stop))
        found += range(max(start + first, stop - last), stop)
        start = stop
    return found


def _edited(at: torch.Tensor, intervention: Intervention) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda h: h.index_copy(0, at, intervention(h[at]).to(h.dtype))
