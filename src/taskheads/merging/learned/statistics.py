"""What Fisher and RegMean merging need to know of a model's data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn


def fisher_diagonal(
    model: nn.Module, batches: Iterable[Any], logits: Callable[[nn.Module, Any], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The diagonal of the Fisher information of a classifier, by parameter name, in float32.

    E_x E_{y ~ p(y|x)} (∂ log p(y|x) / ∂θ)², the expectation over y being exact: a backward pass for each
    label, weighted by its probability (Matena & Raffel 2022, section 3.1). `logits(model, batch)` is
    [1, labels]: a batch is one row, since squares of gradients do not add up over rows.
    """
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    found = {name: torch.zeros_like(each, dtype=torch.float32) for name, each in named.items()}
    count = 0
    for batch in batches:
        scores = logits(model, batch).log_softmax(-1)
        if scores.dim() != 2 or len(scores) != 1:
            raise ValueError(f"a batch is one row: its logits are [1, labels], not {list(scores.shape)}")
        count += 1
        for label in range(scores.shape[1]):
            last = label == scores.shape[1] - 1
            gradients = torch.autograd.grad(
                scores[0, label], list(named.values()), retain_graph=not last, allow_unused=True
            )
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    found[name].addcmul_(gradient, gradient, value=scores[0, label].exp().item())
    return {name: each / max(count, 1) for name, each in found.items()}


def empirical_fisher(
    parameters: Mapping[str, nn.Parameter], losses: Iterable[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The mean square of the gradients of losses, each of one row with the label that it has: what stands for
    the Fisher information where a task's predictions have no distribution to take the expectation over."""
    named = {name: each for name, each in parameters.items() if each.requires_grad}
    found = {name: torch.zeros_like(each, dtype=torch.float32) for name, each in named.items()}
    count = 0
    for loss in losses:
        count += 1
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is not None:
                found[name].addcmul_(gradient, gradient)
    return {name: each / max(count, 1) for name, each in found.items()}


def input_grams(
    model: nn.Module, batches: Iterable[Any], run: Callable[[nn.Module, Any], Any]
) -> dict[str, torch.Tensor]:
    """XᵀX of the inputs X [tokens, inputs] of every linear map, by the name of its weight, in float32.

    `run(model, batch)` is a forward pass without padding, or everything that is padded counts.
    """
    found: dict[str, torch.Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, Sequence[torch.Tensor]], None]:
        def add(_: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
            rows = inputs[0].detach().flatten(0, -2).float()
            found[name] = found.get(name, 0) + rows.T @ rows

        return add

    handles = [
        module.register_forward_pre_hook(hook(f"{name}.weight".lstrip(".")))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.no_grad():
            for batch in batches:
                run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found
