"""Masks over task vectors that are learned: Concrete subspaces, and what grew from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from taskheads.merging.learned.learning import Learned, Loss, floating, same_shapes
from taskheads.merging.tensors import Tensors
from taskheads.methods import method


def concrete(logits: torch.Tensor, temperature: float, draw: torch.Generator | None) -> torch.Tensor:
    """A relaxed Bernoulli mask, σ((x + log u - log(1 - u)) / T) with u uniform (Maddison et al. 2017).

    Without a generator it is what training leads to: 1 where x > 0, else 0.
    """
    if draw is None:
        return (logits > 0).to(logits.dtype)
    tiny = torch.finfo(logits.dtype).eps
    uniform = torch.rand(logits.shape, generator=draw).clamp_(tiny, 1 - tiny)
    return torch.sigmoid((logits + uniform.log() - (-uniform).log1p()) / temperature)


class MaskLogits:
    """A logit for each element of some tensors, and masks drawn from them, the same within a step.

    Parameters
    ----------
    like: {name: tensor of its shape}. start: all logits at first. temperature: of the Concrete distribution.
    """

    def __init__(
        self, like: Tensors, names: Sequence[str], start: float, temperature: float, seed: int
    ) -> None:
        self.logits = {name: torch.full(like[name].shape, start, requires_grad=True) for name in names}
        self.temperature, self.seed, self.step = temperature, seed, 0
        self.drawing = True

    def __call__(self, name: str) -> torch.Tensor:
        """The mask of a tensor: drawn while learning, 0 or 1 afterwards."""
        draw = None
        if self.drawing:
            key = hashlib.blake2b(f"{self.seed} {self.step} {name}".encode(), digest_size=8).digest()
            draw = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
        return concrete(self.logits[name], self.temperature, draw)


@method("concrete_subspace_merging", family="merging", paper="arXiv:2312.06173")
class ConcreteMerging:
    """Concrete subspace merging: one mask over all task vectors is learned so that the merged model's
    predictions on every task are sure: θ = θ₀ + λ Σₜ m · τₜ (Tang et al. 2023).

    m is drawn from a Concrete distribution with a logit for each element while it is learned, and 1 where
    that logit is above 0 in the end. Give `fit` for each task an entropy loss on a batch of its rows. λ is
    fixed (the paper's task arithmetic form).

    Parameters
    ----------
    base, models, network: as for `taskheads.merging.coefficients.Coefficients`.
    scale: λ; 0.3 is the paper's. start: all logits at first; 0 is a mask of one half. temperature: 0.5 is
        the paper's. rescale: whether a drawn mask is divided by its mean, so that λ keeps its meaning.
    """

    def __init__(
        self,
        base: Tensors,
        models: Sequence[Tensors],
        network: nn.Module,
        *,
        scale: float = 0.3,
        start: float = 0.0,
        temperature: float = 0.5,
        rescale: bool = True,
        seed: int = 0,
    ) -> None:
        self.base, self.names, self.scale, self.rescale = base, floating(network, base), scale, rescale
        same_shapes(base, models, self.names)
        # The mask is of the sum, and takes as much memory with what learns it.
        self.sums = {name: sum(m[name].float() - base[name].float() for m in models) for name in self.names}
        self.mask = MaskLogits(base, self.names, start, temperature, seed)
        self.learned = Learned(network, self.compose, self.names)

    def kept(self, name: str) -> torch.Tensor:
        """What the sum of the task vectors is multiplied with, element by element."""
        mask = self.mask(name)
        return mask / mask.mean().clamp(min=1e-6) if self.rescale else mask

    def compose(self, name: str) -> torch.Tensor:
        """The parameter of this name, with the graph to the logits."""
        return self.base[name].float() + self.scale * self.kept(name) * self.sums[name]

    def numbers(self) -> list[torch.Tensor]:
        """What is learned: the logits."""
        return list(self.mask.logits.values())

    def fit(self, losses: Sequence[Loss], *, steps: int = 100, rate: float = 1e-1) -> list[float]:
        """Learn the mask by Adam on the sum of the losses; its value at each step. A mask is drawn anew at
        each; the network is left with the merged parameters."""
        return self._learn([(torch.optim.Adam(self.numbers(), lr=rate), losses)], steps)

    @torch.no_grad()
    def merged(self) -> dict[str, torch.Tensor]:
        """The merged parameters with the mask of zeros and ones, in the base's types."""
        self._draws(False)
        return {name: self.compose(name).to(self.base[name].dtype) for name in self.names}

    def _learn(
        self, turns: Sequence[tuple[torch.optim.Optimizer, Sequence[Loss]]], steps: int
    ) -> list[float]:
        """In each step every optimiser in its turn, on the sum of its losses; the last one's sum at each."""
        course = []
        self._draws(True)
        for _ in range(steps):
            for optimiser, losses in turns:
                for each, _ in turns:
                    each.zero_grad()
                total = self.learned.backward(*losses)
                optimiser.step()
                self._next()
            course.append(total)
        self._draws(False)
        self.learned.write()
        return course

    def _masks(self) -> list[MaskLogits]:
        return [self.mask]

    def _draws(self, drawing: bool) -> None:
        for mask in self._masks():
            mask.drawing = drawing

    def _next(self) -> None:
        for mask in self._masks():
            mask.step += 1


@method(
    "somf_safety_fusion",
    family="merging",
    paper="arXiv:2405.09055",
    needs="a model aligned for safety, and safety data",
)
class SafetyFusion(ConcreteMerging):
    """SOMF: fine-tuned models are fused around the aligned one, and a mask learned on safety data lets the
    elements that safety lives on fall back to it: θ = θ_safe + λ Σₜ m · δₜ (Yi et al. 2024).

    `base` is the aligned model; the losses of `fit` are a safety loss (that the fused model answers as the
    aligned one on harmful rows), and beside it, where rows are at hand, that of a task. One fine-tuned model
    is realigned in the same way. A reading of the abstract: λ is 1, and masks are not divided by their mean.
    """

    def __init__(
        self,
        base: Tensors,
        models: Sequence[Tensors],
        network: nn.Module,
        *,
        scale: float = 1.0,
        start: float = 2.0,
        temperature: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            base, models, network, scale=scale, start=start, temperature=temperature, rescale=False, seed=seed
        )


@method(
    "defense_aware_merging",
    family="merging",
    paper="arXiv:2410.13910",
    needs="a trigger of a backdoor to defend against",
)
class DefenseAwareMerging(ConcreteMerging):
    """Defense-aware merging: beside the mask of what tasks share, a second mask marks elements that carry a
    backdoor, and they go back to the base: θ = θ₀ + λ Σₜ M₁ · (1 - M₂) · τₜ (Yang et al. 2024).

    M₁ is learned on the entropy of the tasks, M₂ on a safety loss: that predictions do not react to a
    trigger-like change of the input; in turns, a step each. `fit_both` takes both kinds of losses; which
    change of the input stands for the trigger is the caller's (the paper recovers one by optimisation).

    Parameters
    ----------
    defense: the logits of M₂ at first: low, so that at first nothing is marked. None: M₂ is off, and this is
        `concrete_subspace_merging`. Others as there.
    """

    def __init__(
        self,
        base: Tensors,
        models: Sequence[Tensors],
        network: nn.Module,
        *,
        scale: float = 0.3,
        start: float = 0.0,
        temperature: float = 0.5,
        rescale: bool = True,
        defense: float | None = -1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            base,
            models,
            network,
            scale=scale,
            start=start,
            temperature=temperature,
            rescale=rescale,
            seed=seed,
        )
        self.marks = None
        if defense is not None:
            self.marks = MaskLogits(base, self.names, defense, temperature, seed + 1)

    def kept(self, name: str) -> torch.Tensor:
        shared = super().kept(name)
        return shared if self.marks is None else shared * (1 - self.marks(name))

    def fit_both(
        self, losses: Sequence[Loss], safety: Sequence[Loss], *, steps: int = 100, rate: float = 1e-1
    ) -> list[float]:
        """Learn M₁ on `losses` and M₂ on both sums, in turns; the sum of all losses of M₂'s steps."""
        if self.marks is None:
            return self.fit(losses, steps=steps, rate=rate)
        shared = torch.optim.Adam(self.numbers(), lr=rate)
        marked = torch.optim.Adam(list(self.marks.logits.values()), lr=rate)
        return self._learn([(shared, losses), (marked, [*losses, *safety])], steps)

    def _masks(self) -> list[MaskLogits]:
        return [self.mask] if self.marks is None else [self.mask, self.marks]
