"""Coefficients of task vectors that are learned: AdaMerging, aTLAS, Self-Positioning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from taskheads.errors import ConfigError
from taskheads.merging.learned.learning import Learned, Loss, floating, minimised, same_shapes
from taskheads.merging.static.merge import layer_of
from taskheads.merging.tensors import Tensors
from taskheads.methods import method


class Coefficients:
    """θ = θ₀ + Σₜ cₜ τₜ with coefficients that are learned on a loss of the network: ∂L/∂cₜ = ⟨∂L/∂θ, τₜ⟩, a
    parameter at a time.

    Parameters
    ----------
    base, models: tensors by name; read when they are needed, so that checkpoints on disk will do.
    network: the module that computes with them, of the base's architecture. It may have parameters that the
        base has not (heads); they stay as they are.

    Attributes
    ----------
    names: the parameters that are composed.
    """

    def __init__(self, base: Tensors, models: Sequence[Tensors], network: nn.Module) -> None:
        if not models:
            raise ConfigError("there is no model to merge")
        self.base, self.models, self.names = base, models, floating(network, base)
        same_shapes(base, models, self.names)
        self.tasks = len(models)
        self.learned = Learned(network, self.compose, self.names, self._lead_on)

    def numbers(self) -> list[torch.Tensor]:
        """What is learned."""
        raise NotImplementedError

    def coefficients(self, name: str) -> torch.Tensor:
        """[tasks]: the coefficients of a parameter, made from the numbers."""
        raise NotImplementedError

    @torch.no_grad()
    def compose(self, name: str) -> torch.Tensor:
        """The parameter of this name, in float32."""
        base = self.base[name].float()
        found = base.clone()
        for model, coefficient in zip(self.models, self.coefficients(name).tolist(), strict=True):
            found.add_(model[name].float() - base, alpha=coefficient)
        return found

    def _lead_on(self, name: str, gradient: torch.Tensor) -> None:
        rows = _touched(gradient)
        base, inner = self.base[name][rows].float(), gradient[rows].flatten()
        found = [(model[name][rows].float() - base).flatten() @ inner for model in self.models]
        self.coefficients(name).backward(torch.stack(found))

    def fit(self, losses: Sequence[Loss], *, steps: int = 100, rate: float = 1e-2) -> list[float]:
        """Learn by Adam on the sum of the losses, each a function of the network; its value at each step.
        The network is left with the merged parameters."""
        return minimised(self.learned, self.numbers(), losses, steps, rate)

    @torch.no_grad()
    def merged(self) -> dict[str, torch.Tensor]:
        """The merged parameters, in the base's types."""
        return {name: self.compose(name).to(self.base[name].dtype) for name in self.names}


def _touched(gradient: torch.Tensor) -> torch.Tensor | slice:
    """The rows of a parameter that have a gradient: of an embedding those of the tokens of a batch."""
    some = gradient.flatten(1).any(1) if gradient.dim() > 1 else None
    return slice(None) if some is None or some.all() else some.nonzero().flatten()


@method("adamerging", family="merging", paper="arXiv:2310.02575")
class AdaMerging(Coefficients):
    """AdaMerging: a coefficient for each task and layer, learned without labels by making the merged model's
    predictions on the tasks' rows sure: the entropy, summed over tasks, is minimised (Yang et al. 2024).

    Give `fit` for each task a loss `lambda network: entropy(logits)` on a batch of its rows
    (`taskheads.merging.learning.entropy`). A layer is what has one number in its parameters' names; what
    stands in none is one more.

    Parameters
    ----------
    start: all coefficients at first; 0.3 is the paper's. per_task: one coefficient a task for all layers
        (the paper's task-wise form).
    """

    def __init__(
        self,
        base: Tensors,
        models: Sequence[Tensors],
        network: nn.Module,
        *,
        start: float = 0.3,
        per_task: bool = False,
    ) -> None:
        super().__init__(base, models, network)
        layers = sorted({self._layer(name) for name in self.names})
        self._column = {layer: 0 if per_task else number for number, layer in enumerate(layers)}
        width = 1 if per_task else len(layers)
        self.values = torch.full((self.tasks, width), start, requires_grad=True)

    @staticmethod
    def _layer(name: str) -> int:
        layer = layer_of(name)
        return -1 if layer is None else layer

    def numbers(self) -> list[torch.Tensor]:
        return [self.values]

    def coefficients(self, name: str) -> torch.Tensor:
        return self.values[:, self._column[self._layer(name)]]


@method("atlas_anisotropic_task_vectors", family="merging", paper="arXiv:2407.02880")
class Atlas(Coefficients):
    """aTLAS: task vectors composed with a learned coefficient for each of them and for each parameter block
    (weight, bias, norm): θⱼ = θ₀ⱼ + Σₜ λₜⱼ τₜⱼ (Zhang et al. 2024).

    The coefficients are all that learns: on few labelled rows, for adding or forgetting a task, or without
    labels on the entropy.

    Parameters
    ----------
    start: all coefficients at first; 0 begins at the base, as the paper does.
    """

    def __init__(
        self, base: Tensors, models: Sequence[Tensors], network: nn.Module, *, start: float = 0.0
    ) -> None:
        super().__init__(base, models, network)
        self.values = torch.full((len(self.names), self.tasks), start, requires_grad=True)
        self._row = {name: number for number, name in enumerate(self.names)}

    def numbers(self) -> list[torch.Tensor]:
        return [self.values]

    def coefficients(self, name: str) -> torch.Tensor:
        return self.values[self._row[name]]


@method("self_positioning", family="merging", paper="arXiv:2410.15035")
class SelfPositioning(Coefficients):
    """Self Positioning: the point in the span of the task vectors that is best on a small probe set,
    θ = θ₀ + λ Σₜ αₜ τₜ with Σ αₜ = 1; both α and the scale λ are learned by gradient (Li et al. 2024).

    α is the raw numbers divided by their sum; they and λ are learned together. The paper's loss is the
    contrastive one of text embeddings on a balanced probe set; `fit` takes any.
    """

    def __init__(self, base: Tensors, models: Sequence[Tensors], network: nn.Module) -> None:
        super().__init__(base, models, network)
        self.raw = torch.full((self.tasks,), 1 / self.tasks, requires_grad=True)
        self.scale = torch.ones((), requires_grad=True)

    @property
    def shares(self) -> torch.Tensor:
        """α: [tasks], their sum is 1."""
        return self.raw / self.raw.sum()

    def numbers(self) -> list[torch.Tensor]:
        return [self.raw, self.scale]

    def coefficients(self, name: str) -> torch.Tensor:
        return self.scale * self.shares
