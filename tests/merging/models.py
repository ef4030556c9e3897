"""Small checkpoints made up for a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.heads.planted import generator

SHAPES = {
    "embeddings.weight": (11, 6),
    "layers.0.w": (8, 6),
    "layers.0.b": (8,),
    "layers.1.w": (6, 8),
    "norm": (6,),
}


def tensors(
    seed: int, dtype: torch.dtype = torch.float32, shapes: Mapping = SHAPES
) -> dict[str, torch.Tensor]:
    draw = generator(seed)
    return {name: torch.randn(shape, generator=draw).to(dtype) for name, shape in shapes.items()}


def near(base: Mapping[str, torch.Tensor], seed: int, size: float = 0.1) -> dict[str, torch.Tensor]:
    """A model fine-tuned from a base, so to speak."""
    draw = generator(seed)
    return {
        name: (each.float() + size * torch.randn(each.shape, generator=draw)).to(each.dtype)
        for name, each in base.items()
    }


def family(count: int, dtype: torch.dtype = torch.float32) -> tuple[dict, list[dict]]:
    """A base, and so many models near it."""
    base = tensors(0, dtype)
    return base, [near(base, seed) for seed in range(1, count + 1)]


def stored(folder: Path, values: Mapping[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(values), folder / "model.safetensors")
    return folder


def read(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a folder, by the safetensors library."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Bit for bit, types included."""
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def close(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], within: float = 1e-6) -> bool:
    return a.keys() == b.keys() and all(
        torch.allclose(a[n].double(), b[n].double(), rtol=within, atol=within) for n in a
    )
