"""Which numbers of which linear map are the queries, keys and values of which attention head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.hearing import Heard
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.running import Batch
from taskheads.edits.maps import weight_of, widths
from taskheads.errors import BackboneError

Part = Literal["query", "key", "value"]
PARTS: tuple[Part, ...] = ("query", "key", "value")
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Arrangement:
    """For queries, keys and values, the linear map of one layer that makes them, and which of its outputs are
    those of each head [heads, width]; none where that is not known. linear: the parts to which nothing more
    is done before attention receives them, but a rotation by position."""

    layer: int
    places: Mapping[Part, tuple[str, torch.Tensor]]
    linear: frozenset[Part]

    def place(self, part: Part) -> tuple[str, torch.Tensor]:
        """The map's name and the outputs [heads, width]. Raises BackboneError where they are not known."""
        if part not in self.places:
            raise BackboneError(f"it is not known which map makes the {part} of layer {self.layer}")
        return self.places[part]

    def weights(self, backbone: Backbone, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [heads, D, width] and bias [heads, width] (zeros for none). Raises BackboneError where they
        are not all that makes the part."""
        name, at = self.place(part)
        if part not in self.linear:
            raise BackboneError(f"what makes the {part} of layer {self.layer} is more than a linear map")
        weight = weight_of(backbone, name)[at].mT
        bias = getattr(backbone.model.get_submodule(name), "bias", None)
        return weight, weight.new_zeros(at.shape) if bias is None else bias[at]


def arrangements(
    backbone: Backbone, counts: tuple[int, ...], key_counts: tuple[int, ...], width: int
) -> list[Arrangement]:
    """Of every layer, found by comparing what the maps give with what attention receives: values anywhere,
    queries and keys at the first token of each row, where no rotation by position turns them."""
    batch = probe_of(backbone)
    names = [maps.attention for maps in backbone.layout.maps]
    sites = [f"layers.{layer}.attention.{part}" for layer in range(len(names)) for part in PARTS]
    heard = Heard(list(dict.fromkeys(name for each in names for name in each)))
    with torch.inference_mode():
        found = backbone.run(batch, [*sites, "output"], heard.changes)
    given = {name: iter(each) for name, each in heard.outputs.items()}
    first = batch.starts if isinstance(batch, RaggedBatch) else torch.tensor([0])
    made = []
    for layer, each in enumerate(names):
        outputs = {name: next(given[name]) for name in each}
        made.append(Arrangement(layer, {}, frozenset()))
        for places in _candidates(backbone, each, counts[layer], key_counts[layer], width):
            linear = set()
            for part, (name, at) in places.items():
                seen = found[f"layers.{layer}.attention.{part}"]
                tokens = slice(None) if part == "value" else first
                gap = (outputs[name][tokens][:, at] - seen[tokens]).abs().max()
                if gap <= _TOLERANCE * seen.abs().max():
                    linear.add(part)
            if "value" in linear:
                made[layer] = Arrangement(layer, places, frozenset(linear))
                break
    return made


def probe_of(backbone: Backbone) -> Batch:
    """A small batch for trying a backbone, on its device."""
    probe = backbone.probe()
    return probe.to(backbone.device) if isinstance(probe, RaggedBatch) else probe


def _candidates(
    backbone: Backbone, names: tuple[str, ...], heads: int, key_heads: int, width: int
) -> Iterator[dict[Part, tuple[str, torch.Tensor]]]:
    """Where the parts may be: each in a map of its own, or in one map, part by part or group by group."""
    many = {"query": heads, "key": key_heads, "value": key_heads}
    if len(names) == 3:
        if all(widths(backbone, n)[1] == many[p] * width for n, p in zip(names, PARTS, strict=True)):
            yield {
                part: (name, torch.arange(many[part] * width).view(-1, width))
                for part, name in zip(PARTS, names, strict=True)
            }
    elif len(names) == 1:
        total = heads + 2 * key_heads
        if widths(backbone, names[0])[1] != total * width:
            return
        blocks = torch.arange(total * width).view(total, width).split([heads, key_heads, key_heads])
        yield {part: (names[0], at) for part, at in zip(PARTS, blocks, strict=True)}
        grouped = torch.arange(total * width).view(key_heads, -1, width)
        parts = grouped.split([heads // key_heads, 1, 1], 1)
        yield {part: (names[0], at.flatten(0, 1)) for part, at in zip(PARTS, parts, strict=True)}
