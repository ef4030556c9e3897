"""The static methods by name."""

from __future__ import annotations

from taskheads.merging.static.averages import Linear, ModelStock, Passthrough, Slerp, TaskArithmetic
from taskheads.merging.static.by_data import Fisher, RegMean
from taskheads.merging.static.localising import TallMasksConsensus
from taskheads.merging.static.merge import Merge
from taskheads.merging.static.sparse import Breadcrumbs, Dare, DareTies, Ties
from taskheads.merging.static.swapping import LayerSwapping
from taskheads.methods import card_of

_ALL: tuple[type[Merge], ...] = (
    *(Linear, TaskArithmetic, Slerp, ModelStock, Passthrough, LayerSwapping),
    *(Ties, Dare, DareTies, Breadcrumbs, TallMasksConsensus, Fisher, RegMean),
)
STATIC: dict[str, type[Merge]] = {card_of(kind).name: kind for kind in _ALL}
