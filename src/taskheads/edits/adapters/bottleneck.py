"""Bottleneck adapters: small feed-forward modules inside the layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers.activations import ACT2FN

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, Own
from taskheads.edits.layers import chosen_layers
from taskheads.edits.maps import by_name, key, widths
from taskheads.errors import ConfigError
from taskheads.methods import method


class Bottleneck(nn.Module):
    """y + f(y D + b) U + c, by way of a smaller width. U and c begin at zero, so that y passes unchanged."""

    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(width, inner)
        self.up = nn.Linear(inner, width)
        self.activation = ACT2FN[activation]
        nn.init.normal_(self.down.weight, std=1e-2)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, _x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The output y [N, width] of a map, with the adapter's part added."""
        return y + self.added(y)

    def added(self, y: torch.Tensor) -> torch.Tensor:
        """The adapter's part alone."""
        return self.up(self.activation(self.down(y)))


class _Adapters(Edit):
    """A bottleneck after some of each layer's maps."""

    lr = 1e-3

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        inner: int = 32,
        activation: str = "gelu",
        layers: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        if activation not in ACT2FN:
            raise ConfigError(f"{self.method}: there is no activation {activation!r}")
        self.adapters = nn.ModuleDict()
        for layer in chosen_layers(backbone, layers):
            for name in self.places(backbone, layer):
                self.adapters[key(name)] = Bottleneck(widths(backbone, name)[1], inner, activation)
        if not self.adapters:
            raise ConfigError(f"{self.method} has no place in this backbone")

    def places(self, backbone: Backbone, layer: int) -> list[str]:
        """The maps of a layer after which an adapter stands."""
        raise NotImplementedError

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        return Own(maps=by_name(self.adapters))


def feed_forward_output(backbone: Backbone, layer: int) -> list[str]:
    """The last linear map of a layer's feed-forward block; none where its experts keep theirs."""
    return [*backbone.layout.maps[layer].mlp[-1:]]


@method("houlsby", family="edits", paper="arXiv:1902.00751")
class Houlsby(_Adapters):
    """Houlsby adapters: a bottleneck after attention's output projection and one after the feed-forward
    block, before each is added to the residual stream.

    Houlsby et al. 2019, figure 2; the layer norms stay as they are.

    Parameters
    ----------
    inner: width of the bottleneck. activation: its nonlinearity, a name of transformers'.
    layers: of these alone; all by default.
    """

    def places(self, backbone: Backbone, layer: int) -> list[str]:
        attention = backbone.layout.maps[layer].attention_output
        return [*([attention] if attention else []), *feed_forward_output(backbone, layer)]


@method("pfeiffer", family="edits", paper="arXiv:2005.00247")
class Pfeiffer(_Adapters):
    """Pfeiffer adapters: one bottleneck a layer, after the feed-forward block.

    Pfeiffer et al. 2021, section 3.2 and appendix: as good as two a layer, at half the cost. Options as those
    of `houlsby`.
    """

    def places(self, backbone: Backbone, layer: int) -> list[str]:
        return feed_forward_output(backbone, layer)
