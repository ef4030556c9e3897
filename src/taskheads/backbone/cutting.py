"""A model some of whose linear maps are smaller than its configuration says: cut, described, read again.

Few configurations can say that one layer has fewer attention heads than another. What was cut is kept beside
them, under `taskheads_cuts`, so that the saved folder is a model of transformers in all other respects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from taskheads.errors import BackboneError

KEY = "taskheads_cuts"


@dataclass(frozen=True)
class Cut:
    """What is left of a linear map: which inputs, which outputs, by number; None for all."""

    inputs: list[int] | None = None
    outputs: list[int] | None = None


@dataclass(frozen=True)
class Cuts:
    """By the name of a module: what is left of a linear map, and the numbers that a module keeps and computes
    with, as they are afterwards."""

    maps: Mapping[str, Cut] = field(default_factory=dict)
    numbers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Any) -> Cuts | None:
        """Those that a configuration has beside it, if any."""
        said = getattr(config, KEY, None)
        if said is None:
            return None
        return cls({name: Cut(**each) for name, each in said["maps"].items()}, said["numbers"])

    def apply(self, model: Any) -> None:
        """Cut the model in place, and say so in its configuration."""
        for name, each in self.maps.items():
            _cut(model.get_submodule(name), each)
        for name, numbers in self.numbers.items():
            for attribute, number in numbers.items():
                setattr(model.get_submodule(name), attribute, number)
        setattr(model.config, KEY, asdict(self))


def loaded(auto: Any, source: str, config: Any) -> tuple[Any, Mapping[str, Any]]:
    """A model in float32, and a report with its `missing_keys`, by an Auto class: what `from_pretrained` has,
    or of a folder with cuts (not of the Hub) the cut model. The folder may be of the model or of its body
    alone (`base_model`): what is above that and tied to it is not missing."""
    cuts = Cuts.of(config)
    if cuts is None:
        return auto.from_pretrained(source, config=config, dtype=torch.float32, output_loading_info=True)
    files = sorted(Path(source).glob("model*.safetensors"))
    if not files:
        raise BackboneError(f"there are no weights in {source}")
    model = auto.from_config(config, dtype=torch.float32)
    body, prefix = model.base_model, f"{model.base_model_prefix}."
    cuts.apply(body)
    weights = {name: each for file in files for name, each in load_file(file).items()}
    if body is not model and not any(name.startswith(prefix) for name in weights):
        weights = {f"{prefix}{name}": each for name, each in weights.items()}
    _, unknown = model.load_state_dict(weights, strict=False)
    places = model.state_dict(keep_vars=True)
    given = {id(places[name]) for name in weights if name in places}
    lacking = [name for name, each in places.items() if id(each) not in given]
    return model, {"missing_keys": lacking, "unexpected_keys": unknown}


@torch.no_grad()
def _cut(module: nn.Module, cut: Cut) -> None:
    if not isinstance(module, nn.Linear | Conv1D):
        raise BackboneError(f"{type(module).__name__} is no linear map that can be cut")
    transposed = isinstance(module, Conv1D)
    weight: torch.Tensor = module.weight.T if transposed else module.weight  # type: ignore[operator]
    bias: Any = module.bias
    if cut.outputs is not None:
        weight = weight[cut.outputs]
        bias = None if bias is None else bias[cut.outputs]
    if cut.inputs is not None:
        weight = weight[:, cut.inputs]
    made = (weight.T if transposed else weight).contiguous().clone()
    module.weight = nn.Parameter(made, module.weight.requires_grad)
    if bias is not None:
        module.bias = nn.Parameter(bias.clone(), module.bias.requires_grad)  # type: ignore[union-attr]
    outputs, inputs = weight.shape
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = inputs, outputs
    else:
        module.nx, module.nf = inputs, outputs
