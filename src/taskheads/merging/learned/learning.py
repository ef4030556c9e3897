"""Merges with something to learn: gradients for it, in the memory of one model and one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from taskheads.errors import ModelError
from taskheads.merging.tensors import Tensors

Compose = Callable[[str], torch.Tensor]
Loss = Callable[[nn.Module], torch.Tensor]


class Learned:
    """A network whose parameters are functions of a few numbers, which learn by gradient.

    Parameters
    ----------
    network: any module; its parameters are overwritten. Those that are not in `names` stay as they are.
    compose: from a parameter's name to its value. Called twice a step it must give the same value both times.
    names: the parameters that are composed.
    lead_on: takes a parameter's name and its gradient, and adds to `.grad` of the numbers what follows. By
        default the parameter is composed again, with its graph to the numbers, and goes backward.

    A step composes every parameter without a graph and runs the losses as usual. Where the gradient of a
    parameter is complete it is led on to the numbers and let go. So no more than one composed tensor has a
    graph at any time, and no more than a layer its gradient, however many task vectors there are.
    """

    def __init__(
        self,
        network: nn.Module,
        compose: Compose,
        names: Sequence[str],
        lead_on: Callable[[str, torch.Tensor], None] | None = None,
    ) -> None:
        self.network, self.compose = network, compose
        self.lead_on = lead_on or (lambda name, gradient: compose(name).backward(gradient))
        own = dict(network.named_parameters())
        absent = [name for name in names if name not in own]
        if absent:
            raise ModelError(f"the network has no parameter {absent[0]!r}")
        self.parameters = {name: own[name] for name in names}

    @torch.no_grad()
    def write(self) -> None:
        """Give the network its parameters as they are composed now."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.compose(name))

    def backward(self, *losses: Loss) -> float:
        """The sum of losses of the network; its gradient is added to `.grad` of the numbers."""
        self.write()
        with self._led_on():
            # At once: what is led on costs as much as all parameters, whatever the number of losses.
            total = torch.stack([loss(self.network) for loss in losses]).sum()
            total.backward()
        return total.item()

    @contextmanager
    def _led_on(self) -> Iterator[None]:
        asked = {name: each.requires_grad for name, each in self.network.named_parameters()}
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)

        def hook(name: str) -> Callable[[torch.Tensor], None]:
            def take(parameter: torch.Tensor) -> None:
                assert parameter.grad is not None
                gradient, parameter.grad = parameter.grad, None
                with torch.enable_grad():
                    self.lead_on(name, gradient)

            return take

        handles = []
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(True)
            handles.append(parameter.register_post_accumulate_grad_hook(hook(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(asked[name])


def minimised(
    learned: Learned, numbers: Sequence[torch.Tensor], losses: Sequence[Loss], steps: int, rate: float
) -> list[float]:
    """Adam on the numbers over the sum of all losses; the sum at each step. The network is left composed."""
    optimiser = torch.optim.Adam(list(numbers), lr=rate)
    course = []
    for _ in range(steps):
        optimiser.zero_grad()
        course.append(learned.backward(*losses))
        optimiser.step()
    learned.write()
    return course


def same_shapes(base: Tensors, models: Sequence[Tensors], names: Sequence[str]) -> None:
    """Raise ModelError unless all models have these tensors in the base's shapes."""
    for name in names:
        for tensors in (base, *models):
            if name not in tensors or tensors[name].shape != base[name].shape:
                raise ModelError(f"the tensor {name!r} is not the same shape in all models")


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """The mean entropy of predictions [..., labels], in nats."""
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1).mean()


def floating(network: nn.Module, base: Mapping[str, torch.Tensor]) -> list[str]:
    """The parameters of a network that a base has too: what is merged; its heads are the others."""
    return [name for name, _ in network.named_parameters() if name in base]
