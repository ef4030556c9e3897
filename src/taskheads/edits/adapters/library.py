"""A library of adapters, and edits that learn in two stages: first the library, then how to use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import MapChange
from taskheads.edits.adapters.bottleneck import Pfeiffer
from taskheads.edits.edit import Edit, Own
from taskheads.edits.layers import chosen_layers
from taskheads.edits.maps import by_name, task_key


class Library(nn.Module):
    """One Pfeiffer adapter for each of some tasks, all at the same places.

    places: the names of the maps after which they stand, from bottom to top.
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        inner: int,
        activation: str,
        layers: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict()
        numbers = chosen_layers(backbone, layers)
        for task in tasks:
            made = Pfeiffer(backbone, [task], inner=inner, activation=activation, layers=numbers)
            self.adapters[task_key(task)] = made.adapters
            self.places = [*by_name(made.adapters)]

    def __len__(self) -> int:
        return len(self.adapters)

    def of(self, task: str) -> dict[str, MapChange]:
        """The adapter of one task, by place."""
        return by_name(self.adapters[task_key(task)])

    def remove(self, task: str) -> None:
        del self.adapters[task_key(task)]

    def added(self, place: str, y: torch.Tensor) -> torch.Tensor:
        """What each adapter would add to the output y [N, width] of the map, [N, adapters, width]."""
        shelf = [by_name(adapters)[place] for adapters in self.adapters.values()]
        return torch.stack([each.added(y) for each in shelf], dim=1)


class Composition(nn.Module):
    """What one task makes of the library: at each place, a sum out of what the adapters would add."""

    def forward(self, place: str, y: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        """What is added to y [N, width] instead of one adapter's part; `added` [N, adapters, width]."""
        raise NotImplementedError


class LibraryEdit(Edit):
    """Two stages over a library of adapters, for several tasks at once.

    Stage one: each task trains an adapter of its own. Stage two: all adapters are frozen, and each task
    learns a composition of them. What an adapter of stage one did stays what it was (`alone`).

    A subclass says what is learned in stage two: it calls `compose` when it is made.

    Parameters
    ----------
    inner, activation, layers: of the adapters, as those of `pfeiffer`.
    sources: the tasks whose adapters the library holds, trained already: then there is no first stage.
    """

    shared = True
    lr = 1e-3
    stages = 2

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        inner: int = 32,
        activation: str = "gelu",
        layers: Sequence[int] | None = None,
        sources: Sequence[str] | None = None,
    ) -> None:
        super().__init__(tasks)
        self.sources = None if sources is None else list(sources)
        self.library = Library(backbone, tasks if sources is None else sources, inner, activation, layers)
        self.library.requires_grad_(sources is None)
        self.compositions = nn.ModuleDict()

    def compose(self, new: Callable[[], Composition]) -> None:
        """Give each task a composition to learn, where the library is trained already."""
        if self.sources is not None:
            self.compositions.update({task_key(task): new() for task in self.tasks})

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        if self.sources is None:
            return self.alone(task)
        composition = self.compositions[task_key(task)]
        return Own(maps={place: self._composed(composition, place) for place in self.library.places})

    def alone(self, source: str) -> Own:
        """What the adapter of stage one does that was trained for `source`."""
        return Own(maps=self.library.of(source))

    def following(self, backbone: Backbone) -> Edit | None:
        if self.sources is not None:
            return None
        options = self.options | {"sources": [*self.tasks]}
        second = type(self)(backbone, self.tasks, **options)
        second.options = options
        second.library.load_state_dict(self.library.state_dict())
        return second.to(self.device)

    def forget(self, task: str) -> None:
        """As of any edit; an adapter that other tasks' compositions use stays in the library."""
        super().forget(task)
        if self.sources is None:
            self.library.remove(task)
        else:
            del self.compositions[task_key(task)]

    def _composed(self, composition: nn.Module, place: str) -> MapChange:
        return lambda _x, y: y + composition(place, y, self.library.added(place, y))
