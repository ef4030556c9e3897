"""A LoRA adapter of PEFT: its factors as they are, or put onto a base, tensor by tensor."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskheads.errors import ModelError
from taskheads.merging.arithmetic import widened
from taskheads.merging.files.checkpoint import Checkpoint
from taskheads.merging.files.stored import Stored

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Options that a merge understands, or that say nothing about what an adapter computes; each other one must be
# off. Ways to begin a LoRA that change the base's own weights are none of them.
_KNOWN = {"peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"}
_KNOWN |= {"inference_mode", "target_modules", "exclude_modules", "fan_in_fan_out", "r", "lora_alpha"}
_KNOWN |= {"use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern"}
_KNOWN |= {"lora_dropout", "megatron_core", "qalora_group_size", "eva_config", "ensure_weight_tying"}
_VALUES: dict[str, tuple[Any, ...]] = {"bias": ("none",)}
_VALUES["init_lora_weights"] = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class Factors:
    """A difference to a linear map's weight, `left` [out, r] times `right` [r, in], its scale included; under
    DoRA beside it the norms [out] that the rows of the sum shall have."""

    left: np.ndarray
    right: np.ndarray
    norms: np.ndarray | None = None


class Adapter:
    """A LoRA adapter's folder. Raises ModelError, by the option's name, for one that changes what a LoRA
    computes in a way that is not understood, and for a file that is not whole.

    Attributes
    ----------
    config: its options. modules: the names of the linear maps that it adapts, as PEFT's model calls them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.config: dict[str, Any] = dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{folder / CONFIG} cannot be read: {error}") from error
        if self.config.get("peft_type") != "LORA":
            raise ModelError(f"{folder} is an adapter of {self.config.get('peft_type')}; LoRA can be merged")
        for name, value in self.config.items():
            fine = value in _VALUES[name] if name in _VALUES else name in _KNOWN or not value
            if not fine:
                raise ModelError(f"{folder / CONFIG}: {name} {value!r} cannot be merged")
        self._tensors = Checkpoint(folder / WEIGHTS)
        ends = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")
        self.modules = sorted(n.removesuffix(ends[0]) for n in self._tensors if n.endswith(ends[0]))
        for name in self._tensors:
            if not name.endswith(ends):
                raise ModelError(f"{folder / WEIGHTS}: the tensor {name!r} is no factor of a linear map")
        if len(self._tensors) % len(self.modules or [1]) or not self.modules:
            raise ModelError(f"{folder / WEIGHTS} has not both factors of every map")

    @property
    def decomposed(self) -> bool:
        """Whether it is DoRA, whose sum with the base has rows of given norms."""
        return bool(self.config.get("use_dora"))

    @property
    def stored_by_input(self) -> bool:
        """Whether the model keeps its weights as [in, out]."""
        return bool(self.config.get("fan_in_fan_out"))

    @property
    def dtype(self) -> str:
        return self._tensors[f"{self.modules[0]}.lora_A.weight"].dtype

    def factors(self, module: str) -> Factors:
        """What it adds to a map, in float64."""
        right, left = self._matrix(f"{module}.lora_A.weight"), self._matrix(f"{module}.lora_B.weight")
        rank = len(right)
        alpha = self.config.get("lora_alpha", 8)
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                alpha = value
                break
        scale = alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)
        norms = self._matrix(f"{module}.lora_magnitude_vector") if self.decomposed else None
        return Factors(scale * left, right, norms)

    def _matrix(self, name: str) -> np.ndarray:
        if name not in self._tensors:
            raise ModelError(f"{self.folder / WEIGHTS} lacks the tensor {name!r}")
        stored = self._tensors[name]
        return widened(stored.raw, stored.dtype).reshape(stored.shape)


class Adapted(Mapping[str, Stored]):
    """A base with an adapter put onto it: one tensor at a time, when it is asked for."""

    def __init__(self, adapter: Adapter, base: Mapping[str, Stored]) -> None:
        self._base, self._adapter = base, adapter
        self._module = {_weight_of(module, base, adapter.folder): module for module in adapter.modules}

    def __getitem__(self, name: str) -> Stored:
        stored = self._base[name]
        if name not in self._module:
            return stored
        factors = self._adapter.factors(self._module[name])
        delta = factors.left @ factors.right
        turned = self._adapter.stored_by_input
        weight = widened(stored.raw, stored.dtype).reshape(stored.shape)
        weight = weight.T if turned else weight
        if weight.shape != delta.shape:
            raise ModelError(
                f"{self._adapter.folder} adapts {name!r} as {list(delta.shape)}; it is {list(weight.shape)}"
            )
        weight = weight + delta
        if factors.norms is not None:
            weight *= (factors.norms.reshape(-1) / np.linalg.norm(weight, axis=1))[:, None]
        flat = np.ascontiguousarray(weight.T if turned else weight).reshape(-1)
        return Stored("F64", stored.shape, flat.view(np.uint8))

    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    def __len__(self) -> int:
        return len(self._base)


def unwrapped(module: str) -> str:
    """A map's name in PEFT's model without PEFT's wrapper."""
    return re.sub(r"^base_model\.(model\.)?", "", module)


def _weight_of(module: str, base: Mapping[str, Stored], folder: Path) -> str:
    """The base's name for the weight of a map, whose name in PEFT's model ends in it or is the end of it."""
    name = unwrapped(module) + ".weight"
    if name in base:
        return name
    found = [each for each in base if each.endswith(f".{name}") or name.endswith(f".{each}")]
    if len(found) != 1:
        raise ModelError(f"{folder} adapts {module!r}, which the base has not")
    return found[0]
