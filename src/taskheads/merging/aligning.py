"""Checkpoints brought to the same names: prefixes, dropped tensors, tied weights, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from taskheads.errors import ModelError
from taskheads.merging.files.stored import Stored
from taskheads.merging.static.merge import depth, layer_of

Tensors = Mapping[str, Stored]


def without(tensors: Tensors, patterns: Sequence[str]) -> Tensors:
    """All tensors but those whose name fits a pattern (`*` stands for anything)."""
    if not patterns:
        return tensors
    names = [name for name in tensors if not any(fnmatchcase(name, each) for each in patterns)]
    return {name: tensors[name] for name in names}


def aligned(model: Tensors, like: Tensors, called: str, like_called: str) -> Tensors:
    """The tensors of a model under the names of `like`.

    A model with a task head has its trunk under a prefix (`bert.`), which is taken off. A tensor which only
    the model has is left out where it is another of its tensors, byte for byte (a tied weight that was
    saved twice). Raises ModelError, with the name, for any other tensor that one has and the other has not,
    and for one of another shape.
    """
    names = {name: name for name in model}
    prefix = _prefix(model, like)
    if prefix:
        names = {name.removeprefix(prefix): name for name in model}
    found = {name: model[names[name]] for name in names}
    for name in like:
        if name not in found:
            raise ModelError(f"{called} lacks the tensor {name!r}, which {like_called} has")
        mine, theirs = found[name].shape, like[name].shape
        if mine != theirs:
            rows = len(mine) == len(theirs) == 2 and mine[1] == theirs[1]
            why = "; are their vocabularies different?" if rows and layer_of(name) is None else ""
            raise ModelError(
                f"the tensor {name!r} is {list(mine)} in {called} and {list(theirs)} in {like_called}{why}"
            )
    for name in names.keys() - like.keys():
        if not _saved_twice(found, name, like):
            raise ModelError(
                f"{called} has the tensor {names[name]!r}, which {like_called} has not; name it in `drop` "
                "if it is a head that should have no part in the merge"
            )
    return {name: found[name] for name in like}


def stacked(parts: Sequence[tuple[Tensors, int, int]], rest: Tensors) -> Tensors:
    """Layers on top of each other: (tensors, first layer, last layer) from the bottom up, numbered anew, and
    from `rest` what stands in no layer. Raises ModelError for a layer that is not there."""
    merged: dict[str, Stored] = {name: rest[name] for name in rest if layer_of(name) is None}
    height = 0
    for tensors, first, last in parts:
        if last >= depth(tensors):
            raise ModelError(f"there is no layer {last} in a model of {depth(tensors)} layers")
        for name in tensors:
            layer = layer_of(name)
            if layer is not None and first <= layer <= last:
                new = name.replace(f".{layer}.", f".{height + layer - first}.", 1)
                merged[new] = tensors[name]
        height += last - first + 1
    return {name: merged[name] for name in sorted(merged)}


def _prefix(model: Tensors, like: Tensors) -> str:
    """What stands before all names of `like` in the model; "" where they are the same or never fit."""
    first = next(iter(like), "")
    for name in model:
        if name != first and name.endswith(f".{first}"):
            prefix = name.removesuffix(first)
            if all(f"{prefix}{each}" in model for each in like):
                return prefix
    return ""


def _saved_twice(model: Tensors, name: str, like: Tensors) -> bool:
    return any(model[other].same_as(model[name]) for other in like)
