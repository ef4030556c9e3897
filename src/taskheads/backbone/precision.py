"""Weights in fewer bits: less memory, and edits and heads on top as ever."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from taskheads.errors import BackboneError

Precision = Literal["float32", "bfloat16", "int8"]


def lowered(model: nn.Module, precision: Precision) -> nn.Module:
    """The model, in place, with its weights in `precision`.

    "bfloat16" computes in it too. "int8" keeps the weights of linear maps as integers with a scale for each
    output (torchao's Int8WeightOnlyConfig, symmetric), and computes in float32; gradients flow through to
    what is trained on top.

    Raises BackboneError for another name, where torchao is not installed, and for int8 of a model that has
    no `torch.nn.Linear` (GPT-2's maps are of a kind of their own).
    """
    if precision == "float32":
        return model
    if precision == "bfloat16":
        return model.to(torch.bfloat16)
    if precision != "int8":
        raise BackboneError(f"precision {precision!r}: it is float32, bfloat16 or int8")
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise BackboneError("int8 needs the package torchao: pip install 'taskheads[int8]'") from None
    if not any(isinstance(module, nn.Linear) for module in model.modules()):
        raise BackboneError(f"{type(model).__name__} has no linear maps that int8 is for")
    quantize_(model, Int8WeightOnlyConfig())
    return model


def parts_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that a weight is kept as: itself, or its integers and scales."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor.detach()]
    names, _ = tensor.__tensor_flatten__()
    return [getattr(tensor, name).detach() for name in names]


def kept_parts(model: Any) -> dict[str, torch.Tensor]:
    """What lowered weights are kept as, by the names of weight and part: to make numbers lower a second time
    does not give the same ones."""
    return {
        f"{name}.{part}": getattr(tensor, part).contiguous()
        for name, tensor in model.state_dict().items()
        if hasattr(tensor, "__tensor_flatten__")
        for part in tensor.__tensor_flatten__()[0]
    }


@torch.no_grad()
def put_parts(model: Any, parts: dict[str, torch.Tensor]) -> None:
    """Take over what `kept_parts` gave."""
    weights = model.state_dict()
    for key, value in parts.items():
        name, _, part = key.rpartition(".")
        getattr(weights[name], part).copy_(value)


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A weight as the numbers that it stands for."""
    return tensor.dequantize() if hasattr(tensor, "__tensor_flatten__") else tensor


def restored(model: Any) -> dict[str, torch.Tensor]:
    """All weights of a model as plain tensors, by name."""
    return {name: plain(tensor) for name, tensor in model.state_dict().items()}
