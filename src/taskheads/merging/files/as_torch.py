"""Tensors of files as torch's, and the other way round; no bytes are copied."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import torch

from taskheads.merging.files.stored import FLOATS, Stored

_NAMES = {getattr(torch, name): stored for stored, name in FLOATS.items()} | {
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {stored: kind for kind, stored in _NAMES.items()}


class AsTorch(Mapping[str, torch.Tensor]):
    """The tensors of a checkpoint as torch's: views of the file, read-only (writing to one ends the process),
    of which a page is read when it is looked at."""

    def __init__(self, tensors: Mapping[str, Stored]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        return as_torch(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def as_torch(stored: Stored) -> torch.Tensor:
    """The same elements, in the same place."""
    kind = _TYPES[stored.dtype]
    if not stored.size:
        return torch.empty(stored.shape, dtype=kind)
    with warnings.catch_warnings():
        # torch cannot say of a tensor that it is read-only, and warns instead.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        flat = torch.frombuffer(stored.buffer, dtype=kind, count=stored.size, offset=stored.offset)
    return flat.view(stored.shape)


def as_stored(tensor: torch.Tensor) -> Stored:
    """The same elements, in the same place where they lie in row-major order on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return Stored(_NAMES[tensor.dtype], tuple(tensor.shape), flat.view(torch.uint8).numpy())
