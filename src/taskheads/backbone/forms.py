"""Forms in which differences of weights are stored: dense, masked, low-rank, quantised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from taskheads.errors import ModelError

Parts = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Dense:
    """Every element, in a type of the caller's choice."""

    kind: ClassVar[str] = "dense"
    values: torch.Tensor

    @classmethod
    def of(cls, delta: torch.Tensor, dtype: torch.dtype = torch.float32) -> Dense:
        return cls(delta.to(dtype))

    def value(self) -> torch.Tensor:
        """The tensor, in float32."""
        return self.values.float()

    def parts(self) -> Parts:
        return {"values": self.values}

    @classmethod
    def from_parts(cls, parts: Parts) -> Dense:
        return cls(parts["values"])


@dataclass(frozen=True)
class Masked:
    """A bit for each element of a difference that several tasks share: it is the task's, or it is not.

    `bits` [⌈n / 8⌉] of uint8, the first element in the highest bit; `shared` the common difference.
    """

    kind: ClassVar[str] = "masked"
    bits: torch.Tensor
    shared: torch.Tensor

    @classmethod
    def of(cls, mask: torch.Tensor, shared: torch.Tensor) -> Masked:
        flat = torch.zeros(8 * math.ceil(mask.numel() / 8), dtype=torch.uint8)
        flat[: mask.numel()] = mask.reshape(-1)
        powers = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8)
        return cls((flat.view(-1, 8) * powers).sum(1, dtype=torch.uint8), shared)

    @property
    def mask(self) -> torch.Tensor:
        """The mask, of the shape of the shared tensor."""
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8)
        flat = ((self.bits[:, None] >> shifts) & 1).reshape(-1)[: self.shared.numel()]
        return flat.view(self.shared.shape).bool()

    def value(self) -> torch.Tensor:
        return self.shared.float() * self.mask

    def parts(self) -> Parts:
        return {"bits": self.bits}

    @classmethod
    def from_parts(cls, parts: Parts) -> Masked:
        return cls(parts["bits"], parts["shared"])


@dataclass(frozen=True)
class LowRank:
    """A matrix of rank r as `left` [out, r] times `right` [r, in]."""

    kind: ClassVar[str] = "low_rank"
    left: torch.Tensor
    right: torch.Tensor

    @classmethod
    def of(cls, delta: torch.Tensor, rank: int) -> LowRank:
        """The nearest matrix of that rank (Eckart-Young): the truncated singular value decomposition."""
        if delta.dim() != 2 or rank < 1:
            raise ValueError(f"a rank of {rank} is for matrices and at least 1, not for {list(delta.shape)}")
        left, values, right = torch.linalg.svd(delta.double(), full_matrices=False)
        root = values[:rank].sqrt()
        return cls((left[:, :rank] * root).float(), (root[:, None] * right[:rank]).float())

    def value(self) -> torch.Tensor:
        return self.left.float() @ self.right.float()

    def parts(self) -> Parts:
        return {"left": self.left, "right": self.right}

    @classmethod
    def from_parts(cls, parts: Parts) -> LowRank:
        return cls(parts["left"], parts["right"])


@dataclass(frozen=True)
class Quantised:
    """Whole numbers from -127 to 127 and a scale for each row: an element is off by half a scale at most."""

    kind: ClassVar[str] = "quantised"
    numbers: torch.Tensor
    scales: torch.Tensor

    @classmethod
    def of(cls, delta: torch.Tensor) -> Quantised:
        rows = delta.float().reshape(delta.shape[0] if delta.dim() > 1 else 1, -1)
        scales = rows.abs().amax(1) / 127
        numbers = (rows / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round().to(torch.int8)
        return cls(numbers.view(delta.shape), scales)

    def value(self) -> torch.Tensor:
        rows = self.numbers.float().reshape(len(self.scales), -1)
        return (rows * self.scales[:, None]).view(self.numbers.shape)

    def parts(self) -> Parts:
        return {"numbers": self.numbers, "scales": self.scales}

    @classmethod
    def from_parts(cls, parts: Parts) -> Quantised:
        return cls(parts["numbers"], parts["scales"])


Form = Dense | Masked | LowRank | Quantised
FORMS: dict[str, type[Form]] = {each.kind: each for each in (Dense, Masked, LowRank, Quantised)}


def packed(forms: Mapping[str, Form]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Stored tensors as the tensors of one file, and the kind of each; masks without what they are over."""
    parts = {
        f"{name}:{part}": value.contiguous()
        for name, form in forms.items()
        for part, value in form.parts().items()
    }
    return parts, {name: form.kind for name, form in forms.items()}


def unpacked(
    parts: Mapping[str, torch.Tensor],
    kinds: Mapping[str, str],
    over: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, Form]:
    """What `packed` was given. `over` is what masks are over, by name.

    Raises ModelError, with the tensor, for a kind that is not known, a part that is not there, and a mask
    over nothing.
    """
    by_name: dict[str, list[str]] = {}
    for key in parts:
        by_name.setdefault(key.rpartition(":")[0], []).append(key)
    found: dict[str, Form] = {}
    for name, kind in kinds.items():
        if kind not in FORMS:
            raise ModelError(f"the tensor {name!r} is stored as {kind!r}, which this release does not know")
        mine = {key.rpartition(":")[2]: parts[key] for key in by_name.get(name, ())}
        if kind == Masked.kind and over is not None and name in over:
            mine["shared"] = over[name]
        try:
            found[name] = FORMS[kind].from_parts(mine)
        except KeyError as error:
            raise ModelError(
                f"the tensor {name!r} is stored as {kind}, without its {error.args[0]}"
            ) from error
    return found
