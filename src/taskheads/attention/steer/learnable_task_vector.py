"""A task as a weighted sum of what attention heads add when it is shown by examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from taskheads.attention.asked import Asked, answered, descend
from taskheads.attention.changing import site_of
from taskheads.attention.few_shot import mean_last_outputs
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.where import At
from taskheads.backbone.changes import Change, Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.methods import method


@method("learnable_task_vector", family="steer", paper="arXiv:2502.05390")
@dataclass(frozen=True)
class LearnableTaskVector:
    """A task vector for each layer, v = Σ φ a over its attention heads, added to the residual stream at the
    last token after the layer: a is what a head adds there on few-shot prompts, φ is learned.

    Saglam et al. 2025. It does the task where the prompt has no examples, or too few. The measure
    that φ is learned by may be a log probability, or a squared error's negative for a model of numbers.

    Attributes
    ----------
    contributions: a [layers, heads, D]. weights: φ [layers, heads]; zeros change nothing.
    """

    contributions: torch.Tensor
    weights: torch.Tensor

    @property
    def vectors(self) -> torch.Tensor:
        """v of each layer [layers, D]."""
        return torch.einsum("lh,lhd->ld", self.weights, self.contributions)

    def __call__(self, batch: RaggedBatch, past: Sequence[int] | None = None) -> Changes:
        at = At([-1]).tokens(batch, past).nonzero()[:, 0]

        def adding(vector: torch.Tensor) -> Change:
            return lambda h: h.index_add(0, at, vector.to(h.dtype).expand(len(at), -1))

        return Changes(sites={f"layers.{n}.output": adding(vector) for n, vector in enumerate(self.vectors)})

    @classmethod
    def fit(
        cls,
        heads: AttentionHeads,
        shown: Iterable[RaggedBatch],
        asked: Asked,
        *,
        steps: int = 200,
        lr: float = 0.05,
    ) -> LearnableTaskVector:
        """With φ by gradient descent (Adam), from zeros on.

        shown: few-shot prompts of the task, ending where the answer is asked. asked: rows with fewer
        examples, with the measure that shall rise.
        """
        contributions = mean_contributions(heads, shown)
        weights = torch.zeros(heads.shape, device=contributions.device, requires_grad=True)

        def loss() -> torch.Tensor:
            return -answered(heads.backbone, asked, cls(contributions, weights)).mean()

        descend(heads.backbone, [weights], loss, steps=steps, lr=lr)
        return cls(contributions, weights.detach())


@torch.no_grad()
def mean_contributions(heads: AttentionHeads, shown: Iterable[RaggedBatch]) -> torch.Tensor:
    """What each head adds to the residual stream at a row's last token, on the mean [layers, heads, D]; zeros
    where a layer has fewer heads than another."""
    means = mean_last_outputs(heads, shown)
    some = next(iter(means.values()))
    found = some.new_zeros(*heads.shape, heads.output_weight(0).shape[2])
    for layer in range(heads.n_layers):
        mine = heads.contributions(layer, means[site_of(layer)][None])[0]
        found[layer, : len(mine)] = mine
    return found
