"""What linear maps and norms are given, and what they make of it, in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from taskheads.backbone.changes import Changes, MapChange


class Heard:
    """Hears some of a backbone's linear maps and norms: run a pass with `changes`, which change nothing.

    Attributes
    ----------
    inputs, outputs: by name, [N, in] and [N, out] for each time that it ran (once, unless layers share it).
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.inputs: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        self.outputs: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    @property
    def changes(self) -> Changes:
        return Changes(maps={name: self._hearing(name) for name in self.inputs})

    def _hearing(self, name: str) -> MapChange:
        def hear(given: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
            self.inputs[name].append(given)
            self.outputs[name].append(made)
            return made

        return hear
