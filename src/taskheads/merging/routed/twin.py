"""Twin-Merging: one shared model, and for each task a small difference that a router adds input by input."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from taskheads.backbone.forms import Dense, Form, LowRank
from taskheads.errors import ConfigError
from taskheads.merging.tensors import Tensors
from taskheads.methods import method


@method(
    "twin_merging",
    family="merging",
    paper="arXiv:2406.15479",
    needs="a router that is trained on embeddings of the tasks' rows",
)
class TwinMerging:
    """Twin-Merging: θ*(x) = θ_s + Σₜ wₜ(x) · SVD_r(θₜ - θ_s), where θ_s is any merge of the tasks' models,
    and the weights w(x) come from a small router on the shared model's embedding of x (Lu et al. 2024).

    Parameters
    ----------
    shared: the shared expert's tensors. models: the tasks' own.
    rank: of the matrices of each task's difference; None keeps them whole. What is no matrix (biases, norms)
        is kept whole.
    router: from embeddings [rows, width] to weights [rows, tasks]; see `Router`.
    """

    def __init__(
        self,
        shared: Tensors,
        models: Sequence[Tensors],
        router: Callable[[torch.Tensor], torch.Tensor],
        *,
        rank: int | None = None,
    ) -> None:
        self.shared, self.router = shared, router
        self.exclusive = [_exclusive(model, shared, rank) for model in models]

    def weights_for(self, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """θ* for one row of weights [tasks], in float32."""
        found = {}
        for name in self.shared:
            value = self.shared[name]
            if value.is_floating_point():
                value = value.double()
                for weight, forms in zip(weights.tolist(), self.exclusive, strict=True):
                    if weight:
                        value = value + weight * forms[name].value()
                value = value.float()
            found[name] = value
        return found

    @torch.no_grad()
    def __call__(self, network: nn.Module, rows: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """The network's outputs, each row computed with its own weights.

        `embeddings` [rows, width] are the shared model's. Rows with the same weights (those of a router that
        is sure) go through the network together.
        """
        weights, group = self.router(embeddings).unique(dim=0, return_inverse=True)
        outputs: list[torch.Tensor | None] = [None] * len(rows)
        for number, each in enumerate(weights):
            mine = (group == number).nonzero().flatten()
            answers = torch.func.functional_call(network, self.weights_for(each), (rows[mine],))
            for row, answer in zip(mine.tolist(), answers, strict=True):
                outputs[row] = answer
        return torch.stack([each for each in outputs if each is not None])


class Router(nn.Module):
    """A multilayer perceptron from an embedding to a share for each task; the shares of a row sum to 1.

    Parameters
    ----------
    width: of the embedding. tasks: how many. hidden: of the layer between.
    hard: whether the most likely task gets everything.
    """

    def __init__(
        self, width: int, tasks: int, *, hidden: int = 64, hard: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, tasks))
        self.hard = hard

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        logits = self.layers(embeddings)
        if self.hard:
            return nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
        return logits.softmax(-1)

    def fit(
        self, embeddings: torch.Tensor, tasks: torch.Tensor, *, steps: int = 200, rate: float = 1e-2
    ) -> float:
        """Learn from embeddings [rows, width] and the number of each row's task; the last cross-entropy."""
        if len(embeddings) != len(tasks) or not len(tasks):
            raise ConfigError(
                "a router learns from rows and the task of each: there are none, or not as many"
            )
        optimiser = torch.optim.Adam(self.layers.parameters(), lr=rate)
        for _ in range(steps):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(self.layers(embeddings), tasks)
            loss.backward()
            optimiser.step()
        return loss.item()


def _exclusive(model: Tensors, shared: Tensors, rank: int | None) -> dict[str, Form]:
    found: dict[str, Form] = {}
    for name in shared:
        if not shared[name].is_floating_point():
            continue
        delta = model[name].double() - shared[name].double()
        whole = rank is None or delta.dim() != 2 or rank >= min(delta.shape)
        found[name] = Dense.of(delta) if whole or rank is None else LowRank.of(delta, rank)
    return found
