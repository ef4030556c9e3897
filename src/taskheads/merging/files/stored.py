"""A tensor as it lies in a file: its type, its shape, and its bytes where they are."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

# The names that the safetensors format has for element types, and what numpy reads them as; it has no
# bfloat16 and no 8-bit floats, of which it sees the bits.
STORED: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E5M2": np.dtype("u1"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
# Those that can be merged, and torch's names for them.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor of a checkpoint, of which nothing is read before `raw` is looked at.

    Parameters
    ----------
    dtype: its element type, by safetensors' name. shape: its shape.
    buffer, offset: bytes (uint8), and at which of them its elements begin.
    crc: the CRC-32 that its bytes should have; None where nobody said.
    """

    dtype: str
    shape: tuple[int, ...]
    buffer: np.ndarray
    offset: int = 0
    crc: int | None = None

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.size * STORED[self.dtype].itemsize

    @property
    def floats(self) -> bool:
        """Whether its elements can be averaged."""
        return self.dtype in FLOATS

    @property
    def raw(self) -> np.ndarray:
        """Its elements as they are stored, flat, in row-major order: a view."""
        return self.buffer[self.offset : self.offset + self.bytes].view(STORED[self.dtype])

    @property
    def altered(self) -> bool:
        """Whether its bytes are not those that were written."""
        return self.crc is not None and zlib.crc32(self.raw.view(np.uint8).data) != self.crc

    def same_as(self, other: Stored) -> bool:
        """Whether the two are equal byte for byte."""
        alike = self.dtype == other.dtype and self.shape == other.shape
        return alike and np.array_equal(self.raw.view(np.uint8), other.raw.view(np.uint8))
