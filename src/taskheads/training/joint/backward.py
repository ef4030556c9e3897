"""From the tasks' losses to gradients: added up, or balanced on the shared backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.sharing.balancing import balancer, representation_gradients
from taskheads.sharing.gradients import GradientSplitter, TaskGradients
from taskheads.sharing.weighting import loss_weighting
from taskheads.training.joint.batch import MixedBatch, RunBackbone
from taskheads.training.joint.recipe import Recipe
from taskheads.training.joint.workers import Workers

Losses = Mapping[str, torch.Tensor]


class Backward:
    """What a step does with the losses of its tasks; `names` are all tasks of the run.

    In a step: `begin`, then for each part of it `run` and `backward`, then `end`.
    """

    def __init__(self, backbone: Backbone, names: Sequence[str]) -> None:
        self.backbone, self.names = backbone, list(names)
        self.drawn: list[str] = []

    def begin(self, drawn: Sequence[str]) -> None:
        """A step of these tasks."""
        self.drawn = list(drawn)

    def run(self, batch: MixedBatch) -> RunBackbone:
        """What runs the backbone on this part of the step."""
        return self.backbone.run

    def backward(self, batch: MixedBatch, losses: Losses, scaler: Any) -> None:
        """Add this part's gradients."""
        raise NotImplementedError

    def end(self, losses: Mapping[str, float], workers: Workers) -> None:
        """Finish the step, whose losses over all parts and processes are known now."""

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained beside the model."""
        return []

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state_dict`."""

    def present(self) -> list[int]:
        """The numbers of the step's tasks among all."""
        return [self.names.index(name) for name in self.drawn]


class Weighted(Backward):
    """One backward pass of the weighted sum of the losses."""

    def __init__(self, backbone: Backbone, names: Sequence[str], weighting: str) -> None:
        super().__init__(backbone, names)
        self.weighting = loss_weighting(weighting, len(names)).to(backbone.device)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self.weighting.parameters())

    def backward(self, batch: MixedBatch, losses: Losses, scaler: Any) -> None:
        at = [self.names.index(name) for name in losses]
        scaler.scale(self.weighting.total(torch.stack(list(losses.values())), at)).backward()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weighting.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.weighting.load_state_dict(dict(state))


class Balanced(Backward):
    """One backward pass that keeps the tasks' gradients for the backbone apart, and a balancer that joins
    them."""

    def __init__(self, backbone: Backbone, names: Sequence[str], name: str) -> None:
        super().__init__(backbone, names)
        self.balancer = balancer(name, len(names))
        self.splitter = GradientSplitter(backbone)
        self.gradients: TaskGradients

    def begin(self, drawn: Sequence[str]) -> None:
        super().begin(drawn)
        self.gradients = self.splitter.start(len(self.drawn))

    def run(self, batch: MixedBatch) -> RunBackbone:
        rows = [batch.rows_of(name) for name in self.drawn]
        return lambda ragged, sites: self.gradients.run(ragged, rows, sites)

    def backward(self, batch: MixedBatch, losses: Losses, scaler: Any) -> None:
        nothing = torch.zeros((), device=self.backbone.device)
        self.gradients.backward(
            [scaler.scale(losses[name]) if name in losses else nothing for name in self.drawn]
        )

    def end(self, losses: Mapping[str, float], workers: Workers) -> None:
        if workers.count > 1:
            self.gradients.reduce(torch.distributed.all_reduce)
        self.balancer.balance(
            self.gradients, torch.tensor([losses[name] for name in self.drawn]), self.present()
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.balancer.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.balancer.load_state_dict(state)


class BalancedAtRepresentation(Weighted):
    """One backward pass of losses weighted by a balancer that looks at the backbone's output alone."""

    def __init__(self, backbone: Backbone, names: Sequence[str], name: str) -> None:
        super().__init__(backbone, names, "equal")
        self.balancer = balancer(name, len(names))
        self._output: torch.Tensor

    def run(self, batch: MixedBatch) -> RunBackbone:
        def run(ragged: Any, sites: Sequence[str]) -> dict[str, torch.Tensor]:
            found = self.backbone.run(ragged, list(dict.fromkeys([*sites, "output"])))
            self._output = found["output"]
            return found

        return run

    def backward(self, batch: MixedBatch, losses: Losses, scaler: Any) -> None:
        sizes = [batch.parts[name].tokens.stop - batch.parts[name].tokens.start for name in losses]
        stacked = torch.stack(list(losses.values()))
        found = representation_gradients(list(losses.values()), self._output, sizes).double()
        at = [self.names.index(name) for name in losses]
        weights = self.balancer.weights(found @ found.T, stacked, at)
        scaler.scale((weights.to(stacked) * stacked).sum()).backward()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.balancer.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.balancer.load_state_dict(state)


def backward_of(backbone: Backbone, names: Sequence[str], recipe: Recipe) -> Backward:
    """What the recipe asks for. Raises ConfigError for an unknown balancer or weighting."""
    if recipe.balance == "none":
        return Weighted(backbone, names, recipe.weighting)
    if balancer(recipe.balance, len(names)).at_representation:
        return BalancedAtRepresentation(backbone, names, recipe.balance)
    return Balanced(backbone, names, recipe.balance)
