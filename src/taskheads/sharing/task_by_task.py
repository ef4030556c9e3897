"""A module run once for each task, on the task's slice, with parameters of the task's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from taskheads.errors import BackboneError
from taskheads.sharing.slices import Slices


@contextmanager
def task_by_task(
    module: nn.Module, slices: Slices, parameters: Sequence[Mapping[str, torch.Tensor]]
) -> Iterator[None]:
    """While this is open, `module` runs on one task's slice after the other, and its outputs are joined.

    `parameters[t]` stand in for the module's own (by name, those of its children included) when the slice of
    task t runs, so that plain autograd gives each task's gradient. Exact for every module that treats the
    batch's tokens, or rows, one by one, whatever it does with its parameters.
    """
    before = vars(module).get("forward")
    whole = _Called(module, module.forward)
    own = [{f"module.{name}": each for name, each in named.items()} for named in parameters]

    def forward(*args: Any, **kwargs: Any) -> Any:
        outputs = []
        for task, size in enumerate(slices.sizes):
            if size:
                mine = tuple(_cut(each, slices, task) for each in args)
                named = {name: _cut(each, slices, task) for name, each in kwargs.items()}
                outputs.append(functional_call(whole, own[task], mine, named))
        return _joined(outputs, slices, type(module).__name__)

    module.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


class _Called(nn.Module):
    """What a module computed before its `forward` was exchanged, for `functional_call`."""

    def __init__(self, module: nn.Module, compute: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.compute = module, compute

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.compute(*args, **kwargs)


def _cut(value: Any, slices: Slices, task: int) -> Any:
    axis = slices.axis(value.shape) if isinstance(value, torch.Tensor) else None
    return value if axis is None else value.split(slices.scaled(value.shape[axis]), axis)[task]


def _joined(outputs: Sequence[Any], slices: Slices, name: str) -> Any:
    first = outputs[0]
    if isinstance(first, tuple):
        return tuple(_joined(each, slices, name) for each in zip(*outputs, strict=True))
    if isinstance(first, torch.Tensor):
        for axis in (1, 0):
            if first.ndim > axis:
                shape = list(first.shape)
                shape[axis] = sum(each.shape[axis] for each in outputs)
                if slices.axis(shape) == axis:
                    return torch.cat([*outputs], axis)
    raise BackboneError(f"{name} does not compute row by row: its gradients cannot be split by task")
