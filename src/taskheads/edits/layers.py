"""Which layers an edit stands in."""

from __future__ import annotations

from collections.abc import Sequence

from taskheads.backbone.backbone import Backbone
from taskheads.errors import ConfigError


def chosen_layers(backbone: Backbone, layers: Sequence[int] | None) -> list[int]:
    """The numbers of these layers, of all where `layers` is None. Raises ConfigError for one that is not
    there."""
    if layers is None:
        return list(range(backbone.n_layers))
    if bad := [layer for layer in layers if not 0 <= layer < backbone.n_layers]:
        raise ConfigError(f"this backbone has no layer {bad[0]}; its layers are 0 to {backbone.n_layers - 1}")
    return list(layers)
