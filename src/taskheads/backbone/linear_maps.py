"""Linear maps by oneDNN on processors where its kernels outrun those of MKL: in answering passes, and by
themselves."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from taskheads.backbone.attention import current_attention

# Below so many tokens the two are about even, and oneDNN makes a kernel for every count of tokens that is new
# to it, which takes as long as some of these products.
_TOKENS = 64


@cache
def onednn_multiplies_faster() -> bool:
    """Whether this is a processor of AMD with AVX-512, where MKL, by which torch multiplies float32, does not
    use what the processor has. On one of Intel's the two are alike. Known by its maker and not by a trial,
    so that a machine's answers are the same, to the last bit, in every process."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    described = Path("/proc/cpuinfo")
    processor = described.read_text() if described.is_file() else platform.processor()
    return "AuthenticAMD" in processor and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linear(nn.Linear):
    """`nn.Linear`, by oneDNN in a backbone's answering pass. Outside of one, torch's own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if _answering() and _for_onednn(input, self.weight):
            return _multiplied(input, self.weight, self.bias)
        return linear(input, self.weight, self.bias)


class TransposedLinear(Conv1D):
    """GPT-2's `Conv1D`, whose weight is (inputs, outputs), by oneDNN in a backbone's answering pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if _answering() and _for_onednn(x, self.weight):
            return _multiplied(x, self.weight.T, self.bias)
        return super().forward(x)


_KINDS = {nn.Linear: Linear, Conv1D: TransposedLinear}


def put_onednn(model: nn.Module) -> None:
    """Make each `nn.Linear` and `Conv1D` of the model a `Linear` or `TransposedLinear`, with all it has.

    In place, by its class: a map has hooks, may be tied to another, or be held by more than one module.
    """
    for module in model.modules():
        if (kind := _KINDS.get(type(module))) is not None:
            module.__class__ = kind


@torch.no_grad()
def product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """values @ weight.T + bias, [..., outputs], from values [..., inputs] and weight [outputs, inputs], by
    oneDNN where that is faster; it has no gradient."""
    if onednn_multiplies_faster() and _for_onednn(values, weight):
        return _multiplied(values, weight, bias)
    return linear(values, weight, bias)


def _answering() -> bool:
    return torch.is_inference_mode_enabled() and current_attention() is not None


def _for_onednn(values: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        values.device.type == "cpu"
        and values.dtype == weight.dtype == torch.float32
        and values.numel() >= _TOKENS * values.shape[-1] > 0
    )


def _multiplied(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # Weights packed the way oneDNN likes best would take their room twice, for a hundredth of a pass.
    return torch.ops.mkldnn._linear_pointwise.default(values, weight, bias, "none", [], "")
