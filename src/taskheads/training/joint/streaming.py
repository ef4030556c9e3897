"""Tensors written to a safetensors file one after the other, so that no more than one of those that are cut
up among processes is ever whole."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch

from taskheads.training.joint.sharding import whole

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_file(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write the tensors as safetensors does: an eight-byte length, a JSON header of types, shapes and
    places, and the numbers. All processes must `take_part` where some of them are cut up."""
    header, end = {}, 0
    for name, tensor in _in_order(tensors).items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(said)) + said)
        for tensor in _in_order(tensors).values():
            numbers = whole(tensor).cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(numbers.numpy().data)


def take_part(tensors: Mapping[str, torch.Tensor]) -> None:
    """What the other processes do while one of them writes the tensors."""
    for tensor in _in_order(tensors).values():
        whole(tensor)


def _in_order(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Wide numbers first, so that each tensor starts at a multiple of what one of its numbers takes."""
    return dict(sorted(tensors.items(), key=lambda each: -each[1].element_size()))
