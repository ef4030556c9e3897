"""State dicts in memory, merged as the engine merges files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from taskheads.errors import ModelError
from taskheads.merging.files.as_torch import as_stored, as_torch
from taskheads.merging.files.stored import Stored
from taskheads.merging.static.merge import Group, Merge, depth, fits, unchanged

Tensors = Mapping[str, torch.Tensor]


def merge_tensors(
    method: Merge,
    models: Sequence[Tensors],
    base: Tensors | None = None,
    weights: Sequence[float] | None = None,
    statistics: Sequence[Tensors] = (),
) -> dict[str, torch.Tensor]:
    """Merge state dicts: what `taskheads.merging.engine.run` does from file to file.

    Returns {name: tensor} in the type of the base (without one, of the first model). Raises ConfigError where
    the method does not take these models, ModelError, with the name, where names or shapes differ.
    """
    fits(method, len(models), base is not None, weights)
    first = models[0] if base is None else base
    layers = depth(first)
    groups = []
    for name in first:
        for other in models:
            if name not in other or other[name].shape != first[name].shape:
                raise ModelError(f"the tensor {name!r} is not the same shape in all models")
        groups.append(
            Group(
                name,
                None if base is None else as_stored(base[name]),
                [as_stored(model[name]) for model in models],
                tuple(weights or [1.0] * len(models)),
                layers,
                [as_stored(each[name]) if name in each else None for each in statistics],
            )
        )
    surveyed = method.surveyed(group for group in groups if group.like.floats)
    return {group.name: as_torch(_merged(surveyed, group)).clone() for group in groups}


def _merged(method: Merge, group: Group) -> Stored:
    if not group.like.floats:
        return unchanged(group)
    parts = [raw for _, raw in method.merged(group, group.like.dtype)]
    raw = np.concatenate(parts) if parts else group.like.raw
    return Stored(group.like.dtype, group.like.shape, raw.view(np.uint8))
