"""What one pass may change inside the backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from taskheads.backbone.patterns import Watcher
from taskheads.backbone.sites import Layout, layer_of
from taskheads.errors import BackboneError

# What stands at a site [N, ...] to what shall stand there; of the same shape.
Change = Callable[[torch.Tensor], torch.Tensor]
# The input [N, in] and the output [N, out] of a map (linear or norm) to what its output shall be.
MapChange = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Past(Protocol):
    """Keys and values that stand before those of a row's own tokens, in every layer.

    `lengths` says for each row of the batch how many; a row's own positions count on from there.
    """

    lengths: Sequence[int]

    def of(self, layer: int, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of some rows, which have equally many: each [rows, past, key heads, head width]."""
        ...


@dataclass(frozen=True)
class Prompts:
    """Vectors that stand before a row's own tokens at the site `tokens`.

    lengths: for each row of the batch, how many. vectors: those of all rows end to end, [sum, width].
    """

    lengths: Sequence[int]
    vectors: torch.Tensor


@dataclass
class Lower:
    """What the layers below `layer` make of a batch: kept by the first pass that has it among its changes,
    and taken, in place of running those layers, by the later ones. All must be of the same batch."""

    layer: int
    output: Any = None


@dataclass(frozen=True)
class Attended:
    """What a layer's module of attention gives [N, D], in place of running it: for models in which that
    module holds the output projection, and gives nothing else that is used."""

    layer: int
    output: torch.Tensor


@dataclass(frozen=True)
class Changes:
    """All that a pass changes. Every function sees the tokens of all rows end to end, prompts included.

    sites: by site, what replaces what stands there. maps: by the name of a module of the model which is a
    linear map or a norm, what replaces its output. prompts, past, lower, attended: see there. watched: by
    layer, who is shown its attention pattern, in pieces (`taskheads.backbone.patterns.Seen`) that are never
    kept; it changes nothing.
    """

    sites: Mapping[str, Change] = field(default_factory=dict)
    maps: Mapping[str, MapChange] = field(default_factory=dict)
    prompts: Prompts | None = None
    past: Past | None = None
    lower: Lower | None = None
    watched: Mapping[int, Watcher] = field(default_factory=dict)
    attended: Attended | None = None

    @classmethod
    def of(cls, changes: Changes | Mapping[str, Change] | None) -> Changes:
        """Of a mapping from sites to functions, or of what is one already."""
        return changes if isinstance(changes, cls) else cls(sites=changes or {})  # type: ignore[arg-type]

    def check(self, layout: Layout, *, ragged: bool) -> None:
        """Raise BackboneError, in one sentence, for what this backbone does not have or cannot do."""
        layout.check(self.sites)
        for name in self.maps:
            if name not in layout.modules:
                raise BackboneError(f"this backbone has no linear map or norm called {name!r}")
        if self.prompts is not None and layout.words is None:
            raise BackboneError("this backbone has no token embeddings for prompts to stand beside")
        if self.watched and not (layout.has_attention and ragged):
            raise BackboneError("a backbone that runs padded shows no attention patterns in pieces")
        for layer in self.watched:
            if not 0 <= layer < len(layout.layers):
                raise BackboneError(f"this backbone has no layer {layer} to watch")
        if not ragged and self.past is not None:
            raise BackboneError("a backbone that runs padded takes no keys and values before a row")
        if self.lower is not None and self._lowest_for(self.lower, layout) < self.lower.layer:
            raise BackboneError(
                f"what changes below layer {self.lower.layer} cannot take what others made there"
            )

    def _lowest_for(self, lower: Lower, layout: Layout) -> int:
        # Of keys and values that come before, what is of layers that do not run is not asked for.
        return (self if lower.output is None else replace(self, past=None)).lowest(layout)

    def lowest(self, layout: Layout) -> int:
        """The lowest layer in which anything changes, the number of layers where nothing does; -1 is what
        stands below all layers."""
        if self.prompts is not None or self.past is not None:
            return -1
        touched = [*map(layer_of, self.sites), *(layout.modules[name] for name in self.maps)]
        if self.attended is not None:
            touched.append(self.attended.layer)
        return max(-1, min([*touched, len(layout.layers)]))
