"""IA³ on linear maps of one's choice, as PEFT's files have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, Own
from taskheads.edits.maps import Targets, as_stored, by_name, key, targeted, weight_of, widths
from taskheads.edits.weights.scales import scaled
from taskheads.errors import ConfigError
from taskheads.methods import method


@method("ia3_maps", family="edits", paper="arXiv:2205.05638")
class Ia3Maps(Edit):
    """IA³ on chosen linear maps: the outputs of some and the inputs of others are multiplied by learned
    vectors, which begin at one.

    Liu et al. 2022, section 3.3, with the places as an option. A map that several layers share (ALBERT) has
    one vector for all of them.

    Parameters
    ----------
    outputs: maps whose output is multiplied, see `taskheads.edits.maps.targeted`; queries, keys and values by
        default. inputs: maps whose input is: attention's output projection and the last map of the
        feed-forward block can be meant; the latter by default ("last").

    Raises ConfigError for another map among the inputs.
    """

    lr = 1e-2

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        outputs: Targets = "attention",
        inputs: Targets = "last",
    ) -> None:
        super().__init__(tasks)
        sites = entrances(backbone)
        meant = _last(backbone) if inputs == "last" else targeted(backbone, inputs) if inputs else []
        for name in meant:
            if name not in sites:
                raise ConfigError(f"ia3_maps: the input of {name!r} is no site; those of {[*sites]} are")
        self.sites = {name: sites[name] for name in meant}
        self.outputs = nn.ParameterDict(
            {
                key(name): _ones(widths(backbone, name)[1])
                for name in (targeted(backbone, outputs) if outputs else [])
            }
        )
        self.inputs = nn.ParameterDict({key(name): _ones(widths(backbone, name)[0]) for name in meant})
        if not self.outputs and not self.inputs:
            raise ConfigError("ia3_maps has neither outputs nor inputs to scale")

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        return Own(
            sites={
                site: _times(scale)
                for name, scale in by_name(self.inputs).items()
                for site in self.sites[name]
            },
            maps={name: scaled(scale) for name, scale in by_name(self.outputs).items()},
        )

    def fold(self, backbone: Backbone, task: str) -> dict[str, torch.Tensor]:
        outputs, inputs = by_name(self.outputs), by_name(self.inputs)
        found: dict[str, torch.Tensor] = {}
        for name in dict.fromkeys([*outputs, *inputs]):
            weight = weight_of(backbone, name)
            if name in inputs:
                weight = weight * inputs[name]
            if name in outputs:
                weight = weight * outputs[name][:, None]
                bias = getattr(backbone.model.get_submodule(name), "bias", None)
                if bias is not None:
                    found[f"{name}.bias"] = bias * outputs[name]
            found[f"{name}.weight"] = as_stored(backbone, name, weight)
        return found


def entrances(backbone: Backbone) -> dict[str, list[str]]:
    """The linear maps whose input is a site, each with that site in every layer where it runs."""
    names = {module: name for name, module in backbone.model.named_modules()}
    found: dict[str, list[str]] = {}
    for layer, projection in enumerate(backbone.layout.projections):
        if attention := backbone.layout.maps[layer].attention_output:
            found.setdefault(attention, []).append(f"layers.{layer}.attention.heads")
        if projection is not None:
            found.setdefault(names[projection], []).append(f"layers.{layer}.mlp.hidden")
    return found


def _last(backbone: Backbone) -> list[str]:
    return [name for name, sites in entrances(backbone).items() if sites[0].endswith("mlp.hidden")]


def _ones(width: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(width))


def _times(scale: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A site's [N, ...] multiplied by `scale`, which counts the numbers of a token, however they are laid."""
    return lambda tensor: tensor * scale.view(tensor.shape[1:]).to(tensor.dtype)
