"""In which numbers a step is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch


def precision_of(name: str, device: torch.device) -> tuple[Callable[[], Any], torch.amp.GradScaler]:
    """A context for the forward pass, and what keeps float16 gradients from vanishing.

    `name` is "float32", "bfloat16", "float16", or "auto": bfloat16 on a GPU that has it in hardware, else
    float32.
    """
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")
    if name == "float32":
        return contextlib.nullcontext, scaler
    return lambda: torch.autocast(device.type, dtype=getattr(torch, name)), scaler
