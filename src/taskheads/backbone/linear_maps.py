"""Linear maps by oneDNN in answering passes, on processors where its kernels outrun those of MKL.

For each number of tokens oneDNN makes kernels of about a megabyte, and keeps the last thousand of them (under
the command line the last eight, see `taskheads.cli`). So it only gets multiples of `STEP`, of which there are
few, and `filled` says how many tokens a batch should have.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeGuard

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from taskheads.backbone.attention import current_attention

STEP = 32
# Below `_FEWEST` tokens the two are about even; below `_FILLED`, what is gained would be lost on the tokens
# that are added to reach a multiple.
_FEWEST, _FILLED = 256, 512
# Weights are packed for this many tokens, and if they are not larger than this.
_PACKED_TOKENS, _PACKED_BYTES = 8192, 1 << 30


class Packed(NamedTuple):
    """A weight in the order in which oneDNN reads it, and the weight that it was made of."""

    values: torch.Tensor
    of: torch.Tensor


class Linear(nn.Linear):
    """`nn.Linear`, by oneDNN in a backbone's answering pass. Outside of one, torch's own."""

    packed: Packed | None = None

    @property
    def matrix(self) -> torch.Tensor:
        return self.weight

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _multiplied(self, input) if _for_onednn(input, self.weight) else super().forward(input)


class TransposedLinear(Conv1D):
    """GPT-2's `Conv1D`, whose weight is (inputs, outputs), by oneDNN in a backbone's answering pass."""

    packed: Packed | None = None

    @property
    def matrix(self) -> torch.Tensor:
        return self.weight.T

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _multiplied(self, x) if _for_onednn(x, self.weight) else super().forward(x)


_KINDS = {nn.Linear: Linear, Conv1D: TransposedLinear}


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


def put_onednn(model: nn.Module) -> None:
    """Make each `nn.Linear` and `Conv1D` of the model a `Linear` or `TransposedLinear`, with all it has.

    In place, by its class: a map has hooks, may be tied to another, or be held by more than one module.
    """
    for module in model.modules():
        if (kind := _KINDS.get(type(module))) is not None:
            module.__class__ = kind


def filled(tokens: int) -> int:
    """So many tokens, or as few more as make passes with them faster."""
    if tokens < _FILLED or not onednn_multiplies_faster():
        return tokens
    return -(-tokens // STEP) * STEP


@contextmanager
def packed(model: nn.Module, tokens: int) -> Iterator[None]:
    """For passes with so many tokens in all, weights are there as oneDNN reads them too, if that is worth it.

    Passes then take less, to the same last bit, and weights their room twice.
    """
    maps = [] if tokens < _PACKED_TOKENS else [module for module in model.modules() if _packable(module)]
    if sum(module.weight.nbytes for module in maps) > _PACKED_BYTES:
        maps = []
    # Two at a time may do so: where one ends first, the other goes on with weights that are not packed.
    maps = [module for module in maps if module.packed is None]
    for module in maps:
        matrix = module.matrix.detach()
        module.packed = Packed(torch.ops.mkldnn._reorder_linear_weight(matrix, _FILLED), module.weight)
    try:
        yield
    finally:
        for module in maps:
            module.packed = None


def _packable(module: nn.Module) -> TypeGuard[Linear | TransposedLinear]:
    if not isinstance(module, Linear | TransposedLinear):
        return False
    weight = module.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() > 0


def _for_onednn(values: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        torch.is_inference_mode_enabled()
        and current_attention() is not None
        and values.device.type == "cpu"
        and values.dtype == weight.dtype == torch.float32
        and values.shape[-1] > 0
        and (tokens := values.numel() // values.shape[-1]) >= _FEWEST
        and tokens % STEP == 0
    )


def _multiplied(module: Linear | TransposedLinear, values: torch.Tensor) -> torch.Tensor:
    packed = module.packed
    # A pass may put another weight into the module, for a branch whose weights are sums.
    weight = module.matrix if packed is None or packed.of is not module.weight else packed.values
    return torch.ops.mkldnn._linear_pointwise.default(values, weight, module.bias, "none", [], "")
