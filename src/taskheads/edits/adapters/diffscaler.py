"""Diffscaler: at each linear map a scale, a shift, and a branch of low rank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import MapChange
from taskheads.edits.adapters.affine import Affine
from taskheads.edits.edit import Edit, Own
from taskheads.edits.maps import Targets, by_name, key, targeted, widths
from taskheads.errors import ConfigError
from taskheads.methods import method


class ReluBranch(nn.Module):
    """What is added to the output of a linear map: s · relu(x D) U, of a small rank; U begins at zero."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(nn.init.kaiming_normal_(torch.empty(rank, inputs)).T.contiguous())
        self.up = nn.Parameter(torch.zeros(rank, outputs))
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return output + self.gain * (torch.relu(x @ self.down) @ self.up)


@method("diffscaler", family="edits", paper="arXiv:2404.09976")
class Diffscaler(Edit):
    """Diffscaler: at each chosen linear map y = a · (W x + b) + b' + s · U relu(D x), a scale and a shift of
    what the map computes already, and a branch of low rank for what it does not.

    Nair et al. 2024, the Affiner block. The paper's scale leaves the bias b alone; since b' learns freely,
    this is the same family of maps. a begins at one, b' and U at zero. Made for diffusion transformers, it
    asks for nothing but linear maps. The branch cannot be folded into weights; `fold_affine` folds the rest.

    Parameters
    ----------
    targets: the maps, see `taskheads.edits.maps.targeted`; all linear maps by default.
    rank: of the branch. layers: of these alone.
    """

    lr = 1e-3

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        targets: Targets = "all",
        rank: int = 4,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.affines, self.branches = nn.ModuleDict(), nn.ModuleDict()
        for name in targeted(backbone, targets, layers):
            inputs, outputs = widths(backbone, name)
            self.affines[key(name)] = Affine(outputs)
            self.branches[key(name)] = ReluBranch(inputs, outputs, rank)

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        branches = by_name(self.branches)
        affines = by_name(self.affines)
        return Own(maps={name: _both(affine, branches[name]) for name, affine in affines.items()})

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        raise ConfigError(
            "diffscaler's relu branch cannot be folded into weights; `fold_affine` folds the rest"
        )

    def fold_affine(self, backbone: Backbone) -> dict[str, torch.Tensor]:
        """The weights of the backbone, by name, which do what scales and shifts do; on top of them `branch`
        does the rest.

        Raises ConfigError for a map without a bias.
        """
        found: dict[str, torch.Tensor] = {}
        for name, affine in by_name(self.affines).items():
            found |= affine.folded(backbone, name)
        return found

    def branch(self) -> Own:
        """What the branches of low rank change, without scales and shifts."""
        return Own(maps=by_name(self.branches))


def _both(affine: Affine, branch: ReluBranch) -> MapChange:
    return lambda x, y: branch(x, affine(x, y))
