"""VeRA: one pair of random matrices for all maps and all tasks; a task learns two vectors a map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import MapChange
from taskheads.edits.edit import Edit, Own
from taskheads.edits.maps import Targets, as_stored, by_name, key, targeted, weight_of, widths
from taskheads.methods import method


@cache
def random_projections(inputs: int, outputs: int, rank: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A [inputs, rank] and B [rank, outputs], uniform as He et al. 2015 draw them (bound √(6 / rows)).

    The same tensors for the same arguments, so that all edits of a process share them; not to be written to.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(rows: int, columns: int) -> torch.Tensor:
        return (torch.rand(rows, columns, generator=generator) * 2 - 1) * math.sqrt(6 / rows)

    with torch.inference_mode(False):  # what is first asked for there must serve training too
        return drawn(inputs, rank), drawn(rank, outputs)


@method("vera", family="edits", paper="arXiv:2310.11454")
class Vera(Edit):
    """VeRA: adds b · (d · (x A)) B to the output of each chosen map, A and B being random, frozen and shared
    by all maps and tasks; only the vectors d and b learn.

    Kopiczko et al. 2024, section 3. A and B are drawn from `seed` for the largest of the maps, the others
    take a corner of them, and neither is saved. Trained: rank + out numbers a map. b begins at zero.

    Parameters
    ----------
    targets: the maps, see `taskheads.edits.maps.targeted`; queries, keys and values by default.
    rank: width between A and B; 256 as in the paper, where a rank costs next to nothing.
    first: what d begins as; 0.1 as in the paper's experiments.
    seed: of A and B. layers: of these alone.
    """

    lr = 3e-2
    down: torch.Tensor
    up: torch.Tensor

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        targets: Targets = "attention",
        rank: int = 256,
        first: float = 0.1,
        seed: int = 0,
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.shapes = {name: widths(backbone, name) for name in targeted(backbone, targets, layers)}
        inputs, outputs = (max(sizes) for sizes in zip(*self.shapes.values(), strict=True))
        for name, shared in zip(("down", "up"), random_projections(inputs, outputs, rank, seed), strict=True):
            self.register_buffer(name, shared, persistent=False)
        self.inner = nn.ParameterDict()
        self.outer = nn.ParameterDict()
        for name, (_, out) in self.shapes.items():
            self.inner[key(name)] = nn.Parameter(torch.full((rank,), first))
            self.outer[key(name)] = nn.Parameter(torch.zeros(out))

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        outer = by_name(self.outer)
        return Own(
            maps={name: self._added(name, inner, outer[name]) for name, inner in by_name(self.inner).items()}
        )

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        outer = by_name(self.outer)
        found = {}
        for name, inner in by_name(self.inner).items():
            down, up = self._corner(name)
            weight = weight_of(backbone, name) + ((down * inner) @ (up * outer[name])).T
            found[f"{name}.weight"] = as_stored(backbone, name, weight)
        return found

    def _added(self, name: str, inner: torch.Tensor, outer: torch.Tensor) -> MapChange:
        down, up = self._corner(name)

        def change(x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            wide = (x @ down.to(x.dtype)) * inner.to(x.dtype)
            return output + ((wide @ up.to(x.dtype)) * outer.to(x.dtype)).to(output.dtype)

        return change

    def _corner(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The part of A and B that a map of these widths takes."""
        inputs, outputs = self.shapes[name]
        return self.down[:inputs], self.up[:, :outputs]
