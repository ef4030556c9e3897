"""Edits that rescale or shift what is there already: IA³, BitFit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import MapChange
from taskheads.edits.edit import Edit, Own
from taskheads.edits.layers import chosen_layers
from taskheads.edits.maps import as_stored, bias_name, by_name, key, weight_of, widths
from taskheads.errors import ConfigError
from taskheads.methods import method


def scaled(scale: torch.Tensor) -> MapChange:
    """Multiplies the output of a map by `scale` [out]."""
    return lambda _x, output: output * scale


def shifted(offset: torch.Tensor) -> MapChange:
    """Adds `offset` [out] to the output of a map."""
    return lambda _x, output: output + offset


@method("ia3", family="edits", paper="arXiv:2205.05638")
class Ia3(Edit):
    """IA³: keys, values and the feed-forward's inner activations are multiplied by learned vectors, which
    begin at one.

    Liu et al. 2022, section 3.3. The keys' and values' maps are told from the queries' by their order, so
    that a backbone which makes all three in one map has that map's whole output scaled.

    Parameters
    ----------
    layers: of these alone; all by default.
    """

    lr = 1e-2

    def __init__(
        self, backbone: Backbone, tasks: Sequence[str], *, layers: Sequence[int] | None = None
    ) -> None:
        super().__init__(tasks)
        self.scales = nn.ParameterDict()
        self.hidden = nn.ParameterDict()
        for layer in chosen_layers(backbone, layers):
            attention = backbone.layout.maps[layer].attention
            for name in attention[1:] or attention:
                self.scales[key(name)] = nn.Parameter(torch.ones(widths(backbone, name)[1]))
            if backbone.layout.projections[layer] is not None:
                site = f"layers.{layer}.mlp.hidden"
                self.hidden[key(site)] = nn.Parameter(torch.ones(backbone.width_of(site)))

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        return Own(
            sites={site: _times(scale) for site, scale in by_name(self.hidden).items()},
            maps={name: scaled(scale) for name, scale in by_name(self.scales).items()},
        )

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name, scale in by_name(self.scales).items():
            weight = weight_of(backbone, name) * scale[:, None]
            found[f"{name}.weight"] = as_stored(backbone, name, weight)
            if (bias := getattr(backbone.model.get_submodule(name), "bias", None)) is not None:
                found[f"{name}.bias"] = bias * scale
        names = {module: name for name, module in backbone.model.named_modules()}
        for site, scale in by_name(self.hidden).items():
            name = names[backbone.layout.projections[int(site.split(".")[1])]]
            found[f"{name}.weight"] = as_stored(backbone, name, weight_of(backbone, name) * scale)
        return found


@method("bitfit", family="edits", paper="arXiv:2106.10199")
class BitFit(Edit):
    """BitFit: only the biases learn, those of linear maps and of norms.

    Ben Zaken et al. 2022. Here as an offset to each bias, zero at first, so that the backbone stays as it is;
    a map or norm without a bias is given none.

    Parameters
    ----------
    layers: of these alone; all by default.
    """

    lr = 1e-3

    def __init__(
        self, backbone: Backbone, tasks: Sequence[str], *, layers: Sequence[int] | None = None
    ) -> None:
        super().__init__(tasks)
        self.offsets = nn.ParameterDict()
        for layer in chosen_layers(backbone, layers):
            maps = backbone.layout.maps[layer]
            for name in (*maps.linear, *maps.norms):
                bias = getattr(backbone.model.get_submodule(name), "bias", None)
                if bias is not None:
                    self.offsets[key(name)] = nn.Parameter(torch.zeros_like(bias, dtype=torch.float32))
        if not self.offsets:
            raise ConfigError("bitfit trains biases, and this backbone has none")

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        return Own(maps={name: shifted(offset) for name, offset in by_name(self.offsets).items()})

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        weights = dict(backbone.model.named_parameters())
        return {
            (place := bias_name(backbone, name)): weights[place] + offset
            for name, offset in by_name(self.offsets).items()
        }


def _times(scale: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: tensor * scale
