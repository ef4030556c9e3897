"""Weights in fewer bits: less memory, and edits and heads on top as ever."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn.functional import linear

from taskheads.backbone.linear_maps import Linear
from taskheads.errors import BackboneError

Precision = Literal["float32", "bfloat16", "int8"]


class Int8Linear(nn.Linear):
    """A linear map that keeps its weight [out, in] as integers with a scale for each output.

    Symmetric, rounded to nearest, the largest of a row at ±127. The weight is made anew for each use, in the
    input's type, so that gradients flow to the input as in a plain map, and none to the weight.
    """

    def __init__(self, of: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = of.in_features, of.out_features, of.bias
        weight = of.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        self.register_buffer("integers", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    integers: torch.Tensor
    scale: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight as float32."""
        return self.integers * self.scale

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return linear(input, self.weight.to(input.dtype), self.bias)


def lowered(model: nn.Module, precision: Precision) -> nn.Module:
    """The model, in place, with its weights in `precision`.

    "bfloat16" computes in it too. "int8" keeps the weights of linear maps as `Int8Linear` does, and computes
    in float32; gradients flow through to what is trained on top.

    Raises BackboneError for another name, and for int8 of a model that has no `torch.nn.Linear` (GPT-2's maps
    are of a kind of their own).
    """
    if precision == "float32":
        return model
    if precision == "bfloat16":
        return model.to(torch.bfloat16)
    if precision != "int8":
        raise BackboneError(f"precision {precision!r}: it is float32, bfloat16 or int8")
    found = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and type(child) in (nn.Linear, Linear)
    ]
    if not found and not any(isinstance(module, Int8Linear) for module in model.modules()):
        raise BackboneError(f"{type(model).__name__} has no linear maps that int8 is for")
    for parent, name, child in found:
        setattr(parent, name, Int8Linear(child))
    return model


def as_floats(model: nn.Module) -> dict[str, torch.Tensor]:
    """All weights of a model as plain tensors, under the names that they had before they were lowered."""
    weights = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, Int8Linear):
            del weights[f"{name}.integers"], weights[f"{name}.scale"]
            weights[f"{name}.weight"] = module.weight
    return weights


def integers_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The integers and scales of lowered weights, by name: what is lowered a second time may be others."""
    return {
        f"{name}.{part}": tensor
        for name, module in model.named_modules()
        if isinstance(module, Int8Linear)
        for part, tensor in module.named_buffers()
    }


@torch.no_grad()
def put_integers(model: nn.Module, found: dict[str, torch.Tensor]) -> None:
    """Take over what `integers_of` gave."""
    for name, tensor in integers_of(model).items():
        tensor.copy_(found[name])
