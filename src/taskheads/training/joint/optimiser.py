"""Who learns at what rate: groups of weights, the optimiser, the schedule, the moving average."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edited import Edited
from taskheads.training.joint.recipe import Recipe
from taskheads.training.joint.sharding import held, is_cut


def freeze_below(backbone: Backbone, layers: int) -> None:
    """Let only the weights above the lowest `layers` layers learn; 0 lets the embeddings learn too."""
    place = layer_of_weights(backbone)
    for name, parameter in backbone.model.named_parameters():
        # The embeddings stand at -1, below the first layer.
        parameter.requires_grad_(layers == 0 or place[name] >= layers)


def layer_of_weights(backbone: Backbone) -> dict[str, int]:
    """For each weight of the backbone, its layer's number: -1 for what stands below all layers, and the
    number of layers for what stands above. A weight that several layers share counts as the lowest's."""
    numbers: dict[int, int] = {}
    for number, layer in reversed(list(enumerate(backbone.layout.layers))):
        numbers.update(dict.fromkeys(map(id, layer.parameters()), number))
    above = backbone.n_layers
    return {
        # Norms and poolers after the last layer are told from embeddings by their name alone.
        name: numbers.get(
            id(parameter), above if re.search(r"final|ln_f|pooler|^norm|\bnorm\.", name) else -1
        )
        for name, parameter in backbone.model.named_parameters()
    }


def optimiser(
    backbone: Backbone,
    heads: Mapping[str, nn.Module],
    recipe: Recipe,
    others: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """The optimiser of all weights that learn; each group knows its highest rate as `peak`. `others` learn at
    the heads' rate.

    Vectors (biases, norms) have no weight decay, as is usual since BERT.
    """
    # Whole weights and those that are cut up among processes cannot be updated in one go.
    rates: dict[tuple[float, float, bool], list[nn.Parameter]] = {}

    def put(parameter: nn.Parameter, rate: float) -> None:
        if parameter.requires_grad:
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            rates.setdefault((rate, decay, is_cut(parameter)), []).append(parameter)

    for parameter, rate in _inside(backbone, recipe):
        put(parameter, rate)
    for parameter in [*(each for head in heads.values() for each in head.parameters()), *others]:
        put(parameter, recipe.head_lr)
    groups = [
        {"params": weights, "lr": rate, "peak": rate, "weight_decay": decay}
        for (rate, decay, _), weights in rates.items()
    ]
    if recipe.optimizer == "adafactor":
        return torch.optim.Adafactor(groups)
    return torch.optim.AdamW(groups, fused=True)


def _inside(backbone: Backbone, recipe: Recipe) -> Iterator[tuple[nn.Parameter, float]]:
    """What learns inside the backbone, and how fast: its weights by their layers, or its tasks' edits."""
    if isinstance(backbone, Edited):
        for edit in dict.fromkeys(backbone.edits.values()):
            for name, parameter in edit.named_parameters():
                yield parameter, (recipe.edit_lr or edit.lr) * edit.rate_of(name)
        return
    top, place = backbone.n_layers, layer_of_weights(backbone)
    for name, parameter in backbone.named_weights():
        yield parameter, recipe.lr * recipe.layer_decay ** max(0, top - 1 - place[name])


def rate_at(step: int, steps: int, recipe: Recipe) -> float:
    """The fraction of its highest rate at which every weight learns in step `step` (from 0) of `steps`."""
    warm = max(1, round(recipe.warmup * steps)) if recipe.warmup else 0
    if step < warm:
        return (step + 1) / warm
    along = (step - warm) / max(1, steps - warm)
    if recipe.schedule == "constant":
        return 1.0
    return 1.0 - along if recipe.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * along))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


class MovingAverage:
    """An exponential moving average of weights (Polyak and Juditsky 1992), started from their first values.

    The decay grows towards `decay` as (1 + t) / (10 + t), so that the start is soon forgotten.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.steps = 0
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        now = [held(each.detach()) for each in self.parameters]
        torch._foreach_lerp_([held(each) for each in self.values], now, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average; a second call undoes the first."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)
