"""How the losses of several tasks become one gradient: added up, or balanced on the shared backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.heads import Head
from taskheads.sharing.balancer import Balancer
from taskheads.sharing.balancing import balancer, representation_gradients
from taskheads.sharing.gradients import GradientSplitter, TaskGradients
from taskheads.sharing.weighting import loss_weighting
from taskheads.training.joint.batch import MixedBatch, RunBackbone
from taskheads.training.joint.recipe import Recipe
from taskheads.training.joint.workers import Workers

Losses = Mapping[str, torch.Tensor]


class Joining:
    """What a step does with the losses of its tasks; `names` are all tasks of the run.

    In a step: `begin`, then for each part of it `run` and `backward`, then `end`.

    Class attributes
    ----------------
    splits: whether the backbone's gradients are kept apart by task until `end`, which then also sums them
        over processes.
    """

    splits = False

    def __init__(self, backbone: Backbone, names: Sequence[str]) -> None:
        self.backbone, self.names = backbone, list(names)

    @cached_property
    def splitter(self) -> GradientSplitter:
        """What tells the tasks' gradients for the backbone apart."""
        return GradientSplitter(self.backbone)

    def begin(self, drawn: Sequence[str]) -> None:
        """A step of these tasks."""
        self.drawn = list(drawn)

    def run(self, batch: MixedBatch) -> RunBackbone:
        """What runs the backbone on this part of the step."""
        return self.backbone.run

    def backward(self, batch: MixedBatch, losses: Losses, penalty: torch.Tensor | None, scaler: Any) -> None:
        """Add this part's gradients, and those of the penalty on what tasks change."""
        raise NotImplementedError

    def end(self, losses: Mapping[str, float], workers: Workers, scaler: Any) -> None:
        """Finish the step, whose losses over all parts and processes are known now."""

    def end_period(self) -> None:
        """Dev was looked at, which stands for the end of an epoch."""

    def gramian(
        self, batch: MixedBatch, heads: Mapping[str, Head], units: Mapping[str, float]
    ) -> torch.Tensor:
        """Inner products [T, T] of the gradients, for the backbone, of the batch's tasks, with a trace of 1,
        so that no step outweighs the others where they are added up. Leaves gradients of the heads behind.
        """
        names = list(batch.parts)
        gradients = self.splitter.start(len(names))
        losses = batch.losses(batch.split_run(gradients, names), heads)
        gradients.backward([losses[name] / units[name] for name in names])
        found = gradients.gramian().cpu()
        return found / found.trace().clamp_min(1e-30)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained beside the model."""
        return []

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state_dict`."""
        raise NotImplementedError

    def _numbers(self, names: Sequence[str]) -> list[int]:
        return [self.names.index(name) for name in names]


class Weighted(Joining):
    """One backward pass of the weighted sum of the losses."""

    def __init__(self, backbone: Backbone, names: Sequence[str], weighting: str) -> None:
        super().__init__(backbone, names)
        self.weighting = loss_weighting(weighting, len(names)).to(backbone.device)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.weighting.parameters())

    def backward(self, batch: MixedBatch, losses: Losses, penalty: torch.Tensor | None, scaler: Any) -> None:
        total = self.weighting.weighted(torch.stack(list(losses.values())), self._numbers(list(losses)))
        scaler.scale(total if penalty is None else total + penalty).backward()

    def end(self, losses: Mapping[str, float], workers: Workers, scaler: Any) -> None:
        present = self._numbers(list(losses))
        # Here and not with the parts, whose gradients are summed over all processes by now: the price is paid
        # once for a step, however it is cut up.
        price = self.weighting.price(present)
        if price.requires_grad:
            scaler.scale(price).backward()
        self.weighting.observe(torch.tensor(list(losses.values()), dtype=torch.float64), present)

    def end_period(self) -> None:
        self.weighting.end_period()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weighting.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.weighting.load_state_dict(dict(state))


class _Balanced(Joining):
    """What both ways of balancing have: a balancer, and its state."""

    def __init__(self, backbone: Backbone, names: Sequence[str], balancer: Balancer) -> None:
        super().__init__(backbone, names)
        self.balancer = balancer

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.balancer.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.balancer.load_state_dict(state)


class Balanced(_Balanced):
    """One backward pass that keeps the tasks' gradients for the backbone apart, and a balancer that joins
    them."""

    splits = True

    def begin(self, drawn: Sequence[str]) -> None:
        super().begin(drawn)
        self.gradients: TaskGradients = self.splitter.start(len(self.drawn))

    def run(self, batch: MixedBatch) -> RunBackbone:
        return batch.split_run(self.gradients, self.drawn)

    def backward(self, batch: MixedBatch, losses: Losses, penalty: torch.Tensor | None, scaler: Any) -> None:
        nothing = torch.zeros((), device=self.backbone.device)
        self.gradients.backward(
            [scaler.scale(losses[name]) if name in losses else nothing for name in self.drawn]
        )

    def end(self, losses: Mapping[str, float], workers: Workers, scaler: Any) -> None:
        if workers.count > 1:
            self.gradients.reduce(torch.distributed.all_reduce)
        values = torch.tensor([losses[name] for name in self.drawn])
        self.balancer.balance(self.gradients, values, self._numbers(self.drawn))


class BalancedAtRepresentation(_Balanced):
    """One backward pass of losses weighted by a balancer that looks at the backbone's output alone."""

    def run(self, batch: MixedBatch) -> RunBackbone:
        def run(ragged: Any, sites: Sequence[str]) -> dict[str, torch.Tensor]:
            found = self.backbone.run(ragged, list(dict.fromkeys([*sites, "output"])))
            self._output = found["output"]
            return found

        return run

    def backward(self, batch: MixedBatch, losses: Losses, penalty: torch.Tensor | None, scaler: Any) -> None:
        sizes = [batch.parts[name].tokens.stop - batch.parts[name].tokens.start for name in losses]
        stacked = torch.stack(list(losses.values()))
        found = representation_gradients(list(losses.values()), self._output, sizes).double()
        weights = self.balancer.weights(found @ found.T, stacked, self._numbers(list(losses)))
        scaler.scale((weights.to(stacked) * stacked).sum()).backward()


def joining_of(backbone: Backbone, names: Sequence[str], recipe: Recipe) -> Joining:
    """What the recipe asks for. Raises ConfigError for an unknown balancer or weighting."""
    if recipe.balance == "none":
        return Weighted(backbone, names, recipe.weighting)
    found = balancer(recipe.balance, len(names))
    return (BalancedAtRepresentation if found.at_representation else Balanced)(backbone, names, found)
