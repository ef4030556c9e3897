"""Weights as associative memories, and how a transformer of three of them learns to look up its context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from taskheads.methods import method


def memory(outputs: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """The associative memory W = Σ_i v_i u_iᵀ [out, in] of outputs v [n, out] and inputs u [n, in]: with
    inputs nearly at right angles, W u_i is nearly v_i (section 3.2)."""
    return outputs.T @ inputs


def recall(weight: torch.Tensor, inputs: torch.Tensor, outputs: torch.Tensor, wanted: Sequence[int]) -> float:
    """The memory recall probe: the share of inputs u_i [n, in] for which, of all outputs v_j [m, out], the
    best by v_jᵀ W u_i is the one `wanted` [n] (section 4.2). weight: [out, in], of any linear map."""
    return float(((inputs @ weight.T @ outputs.T).argmax(1).cpu() == torch.as_tensor(wanted)).float().mean())


@dataclass(frozen=True)
class Bigrams:
    """Sequences of a bigram law with exceptions: after a trigger, the next token is one that was drawn for
    the sequence (section 3.1).

    Attributes
    ----------
    law: chances of the next token [tokens, tokens]. triggers: the tokens with exceptions.
    """

    law: np.ndarray
    triggers: Sequence[int]

    @classmethod
    def drawn(cls, tokens: int, triggers: int, *, seed: int = 0) -> Bigrams:
        """A law with Dirichlet rows; the first tokens are the triggers."""
        draw = np.random.default_rng(seed)
        return cls(draw.dirichlet(np.ones(tokens), tokens), range(triggers))

    def sequences(self, count: int, length: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [count, length], and where the next one can be known from the context [count, length]: at
        triggers that stood in the sequence before. The first token is any; what follows a trigger is none,
        lest it go in circles."""
        draw = np.random.default_rng(seed)
        tokens = len(self.law)
        steps = self.law.cumsum(1)
        others = np.setdiff1d(np.arange(tokens), list(self.triggers))
        exceptions = draw.choice(others, (count, tokens))
        found = np.empty((count, length), np.int64)
        found[:, 0] = draw.integers(0, tokens, count)
        rows, known = np.arange(count), np.zeros((count, length), bool)
        seen = np.zeros((count, tokens), bool)
        trigger = np.isin(np.arange(tokens), list(self.triggers))
        for at in range(length):
            last = found[:, at]
            known[:, at] = trigger[last] & seen[rows, last]
            seen[rows, last] = True
            if at + 1 < length:
                usual = (draw.random(count)[:, None] > steps[last]).sum(1).clip(0, tokens - 1)
                found[:, at + 1] = np.where(trigger[last], exceptions[rows, last], usual)
        return torch.from_numpy(found), torch.from_numpy(known)


@method("birth_of_transformer", family="inspect", paper="arXiv:2306.00802", applies_to=("generate",))
class TwoMemories(nn.Module):
    """The simplified transformer of the paper: two layers of one attention head, no norms, and all but three
    matrices frozen at random: keys of the first layer (who stands before me), keys of the second (who
    stands after one like me), and outputs of the second (what to say).

    Parameters
    ----------
    tokens, length: of the vocabulary and of the longest sequence. width: of the residual stream; far above
        both, random vectors are nearly at right angles.

    Bietti et al. 2023, section 3.3 and 4.1: W_Q are identities, W_V and W_O¹ random.
    """

    embeddings: torch.Tensor
    positions: torch.Tensor
    unembeddings: torch.Tensor
    values: torch.Tensor
    output: torch.Tensor

    def __init__(self, tokens: int, length: int, width: int, *, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)

        def frozen(name: str, rows: int) -> None:
            self.register_buffer(name, torch.randn(rows, width, generator=draw) / width**0.5)

        for name, rows in (("embeddings", tokens), ("positions", length), ("unembeddings", tokens)):
            frozen(name, rows)
        # Of both layers [2, width, width], and the first layer's output.
        self.register_buffer("values", torch.randn(2, width, width, generator=draw) / width**0.5)
        self.register_buffer("output", torch.randn(width, width, generator=draw) / width**0.5)
        self.first_keys, self.second_keys, self.second_output = (
            nn.Parameter(torch.zeros(width, width)) for _ in range(3)
        )

    @property
    def carried(self) -> torch.Tensor:
        """What the first layer makes of the token that it looks at: W_O¹ W_V¹ w_E [tokens, width]."""
        return self.embeddings @ (self.output @ self.values[0]).T

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [rows, length, tokens]."""
        stream = self.embeddings[tokens] + self.positions[: tokens.shape[1]]
        mixed = self._looked(stream, self.first_keys) @ stream
        stream = stream + mixed @ (self.output @ self.values[0]).T
        mixed = self._looked(stream, self.second_keys) @ stream
        return (stream + mixed @ (self.second_output @ self.values[1]).T) @ self.unembeddings.T

    @torch.no_grad()
    def built(self, triggers: Sequence[int], sharp: float = 50.0) -> TwoMemories:
        """Set the three to the sums of outer products which solve the task, with no training (equation 7).
        sharp: how surely heads look where they do."""
        some = list(triggers)
        self.first_keys.copy_(sharp * memory(self.positions[:-1], self.positions[1:]))
        self.second_keys.copy_(sharp * memory(self.carried[some], self.embeddings[some]))
        self.second_output.copy_(memory(self.unembeddings, self.embeddings @ self.values[1].T))
        return self

    def recalls(self, triggers: Sequence[int]) -> dict[str, float]:
        """The recall probes of the three: which token to say (of those that may follow a trigger), which
        trigger to look for, and which position stands before."""
        some = list(triggers)
        others = sorted(set(range(len(self.embeddings))) - set(some))
        said = (self.embeddings @ self.values[1].T)[others]
        return {
            "second_output": recall(self.second_output, said, self.unembeddings, others),
            "second_keys": recall(self.second_keys, self.embeddings[some], self.carried, some),
            "first_keys": recall(
                self.first_keys, self.positions[1:], self.positions, [*range(len(self.positions) - 1)]
            ),
        }

    @staticmethod
    def _looked(stream: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Attention weights [rows, length, length]: x_kᵀ W_K x_q, the query's own identity in W_Q."""
        scores = stream @ keys.T @ stream.mT
        after = torch.ones(scores.shape[-2:], dtype=torch.bool, device=stream.device).triu(1)
        return scores.masked_fill(after, -torch.inf).softmax(-1)
