"""Task vectors: what fine-tuning changed, as something to add, scale and take away."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from taskheads.backbone.forms import Dense, Form, LowRank, Masked, Quantised, packed, unpacked
from taskheads.errors import ModelError
from taskheads.merging.files.as_torch import AsTorch
from taskheads.merging.files.checkpoint import Checkpoint
from taskheads.merging.tensors import Tensors

_FORMS = "forms"


class TaskVector(Mapping[str, torch.Tensor]):
    """τ = θ - θ₀ (Ilharco et al. 2023), by tensor name: `model - base`, `-a`, `a + b`, `a - b`, `0.3 * a`.

    It is composed when a tensor is asked for, from wherever its terms lie (in memory or mapped from disk),
    and each tensor comes in float32. `sum([...])` works.

    Parameters
    ----------
    terms: (factor, {name: function that gives the tensor}); all have the same names.
    """

    def __init__(self, terms: Sequence[tuple[float, Mapping[str, Callable[[], torch.Tensor]]]]) -> None:
        self._terms = list(terms)
        for _, values in self._terms[1:]:
            if values.keys() != self._terms[0][1].keys():
                name = min(values.keys() ^ self._terms[0][1].keys())
                raise ModelError(f"only one of two task vectors has the tensor {name!r}")

    @classmethod
    def between(cls, model: Tensors, base: Tensors) -> TaskVector:
        """What leads from the base to the model, for every tensor of floats of the base. Raises ModelError
        where the model lacks one, or has one of another shape."""
        names = [name for name in base if base[name].is_floating_point()]
        for name in names:
            if name not in model or model[name].shape != base[name].shape:
                raise ModelError(f"the tensor {name!r} is not in both models in the same shape")
        return cls([(1.0, {name: _difference(model, base, name) for name in names})])

    @classmethod
    def stored(cls, forms: Mapping[str, Form]) -> TaskVector:
        """A task vector of stored tensors, each in its form."""
        return cls([(1.0, {name: form.value for name, form in forms.items()})])

    def __getitem__(self, name: str) -> torch.Tensor:
        (factor, values), *others = self._terms
        total = factor * values[name]()
        for factor, values in others:
            total = total + factor * values[name]()
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(self._terms[0][1])

    def __len__(self) -> int:
        return len(self._terms[0][1])

    def __add__(self, other: TaskVector) -> TaskVector:
        return TaskVector([*self._terms, *other._terms])

    def __radd__(self, other: TaskVector | int) -> TaskVector:
        return (
            self if isinstance(other, int) and not other else NotImplemented
        )  # the 0 that sum() begins with

    def __mul__(self, factor: float) -> TaskVector:
        return TaskVector([(factor * own, values) for own, values in self._terms])

    __rmul__ = __mul__

    def __neg__(self) -> TaskVector:
        return -1.0 * self

    def __sub__(self, other: TaskVector) -> TaskVector:
        return self + -other

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def applied_to(self, base: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, base + τ) for every tensor of the base, in its type; what τ has not is the base's."""
        for name in base:
            value = base[name]
            yield name, (value.double() + self[name].double()).to(value.dtype) if name in self else value


def as_dense(vector: TaskVector, dtype: torch.dtype = torch.bfloat16) -> dict[str, Form]:
    """Every element, in a narrow type."""
    return {name: Dense.of(vector[name], dtype) for name in vector}


def as_low_rank(vector: TaskVector, rank: int) -> dict[str, Form]:
    """Matrices as the nearest ones of that rank, where that is smaller; everything else dense."""
    found: dict[str, Form] = {}
    for name in vector:
        delta = vector[name]
        smaller = delta.dim() == 2 and rank * sum(delta.shape) < delta.numel()
        found[name] = LowRank.of(delta, rank) if smaller else Dense.of(delta)
    return found


def as_quantised(vector: TaskVector) -> dict[str, Form]:
    """A byte for each element."""
    return {name: Quantised.of(vector[name]) for name in vector}


def as_masked(
    vectors: Sequence[TaskVector], merged: TaskVector, threshold: float = 0.4
) -> list[dict[str, Form]]:
    """TALL masks: each task as bits over one task vector that all share (Wang et al. 2024), a bit for each
    element and task in place of 16 or 32. `threshold` is the paper's λ."""
    found: list[dict[str, Form]] = [{} for _ in vectors]
    for name in merged:
        shared = merged[name]
        for forms, vector in zip(found, vectors, strict=True):
            own = vector[name]
            forms[name] = Masked.of(own.abs() >= threshold * (shared - own).abs(), shared)
    return found


def save(forms: Mapping[str, Form], path: str | Path) -> None:
    """Write stored tensors to one safetensors file; masks without what they share, which is a file of its
    own. The file appears when it is complete."""
    path = Path(path)
    parts, kinds = packed(forms)
    begun = path.with_name(f".{path.name}.partial")
    try:
        save_file(parts, begun, {_FORMS: json.dumps(kinds)})
        os.replace(begun, path)
    finally:
        begun.unlink(missing_ok=True)


def load(path: str | Path, shared: TaskVector | None = None) -> TaskVector:
    """The task vector of a file that `save` wrote: mapped from disk, and decoded tensor by tensor when it is
    asked for. `shared` is what masks are over. Raises ModelError for a file of something else."""
    file = Checkpoint(path)
    try:
        kinds: dict[str, str] = json.loads(file.metadata[_FORMS])
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path} is no task vector: it does not say how its tensors are stored") from error
    if shared is None and Masked.kind in kinds.values():
        raise ModelError(f"{path} holds masks: name the task vector that they are over")
    stored = AsTorch(file)
    parts: dict[str, list[str]] = {name: [] for name in kinds}
    for key in file:
        parts.setdefault(key.rpartition(":")[0], []).append(key)

    def decoded(name: str) -> Callable[[], torch.Tensor]:
        def value() -> torch.Tensor:
            mine = {key: stored[key] for key in parts[name]}
            over = None if shared is None else {name: shared[name]}
            return unpacked(mine, {name: kinds[name]}, over)[name].value()

        return value

    return TaskVector([(1.0, {name: decoded(name) for name in kinds})])


def _difference(model: Tensors, base: Tensors, name: str) -> Callable[[], torch.Tensor]:
    return lambda: (model[name].double() - base[name].double()).float()
