"""In which numbers weights learn, and a step is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.errors import ConfigError


def check_bits(backbone: Backbone, tune: str, *, alone: bool = False) -> None:
    """Raise ConfigError where so much is tuned that a backbone would learn whose weights have few bits.

    `tune` is as `fit` takes it, `alone` as the recipe says it.
    """
    tuned = tune in ("full", "auto") or (alone and tune != "frozen")
    if tuned and backbone.precision != "float32":
        raise ConfigError(
            f"a backbone in {backbone.precision} cannot be tuned: small steps are lost on its weights; fit "
            "in float32 and lower the model (taskheads lower), or take tune = 'frozen', or an edit"
        )


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
