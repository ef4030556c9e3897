"""EPT: a short prompt, enriched, and a difference of low rank to the embeddings of the text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, Own
from taskheads.edits.prompts.tuning import first_prompt
from taskheads.errors import ConfigError
from taskheads.methods import method


class Spaces(nn.Module):
    """Projections of a prompt P [s, d] into several spaces, mixed by a gate: Σ w_k (P + P D_k U_k), with
    D_k [d, inner], U_k [inner, d] and w [spaces] the softmax of the mean vector of P times G [d, spaces].

    U and G begin at zero: every space is the identity, and all weigh the same.
    """

    def __init__(self, width: int, spaces: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(spaces, width, inner) / math.sqrt(width))
        self.up = nn.Parameter(torch.zeros(spaces, inner, width))
        self.gate = nn.Parameter(torch.zeros(width, spaces))

    def weights(self, prompt: torch.Tensor) -> torch.Tensor:
        """How much each space counts for this prompt, [spaces]; they sum to one."""
        return (prompt.mean(0) @ self.gate).softmax(-1)

    def forward(self, prompt: torch.Tensor) -> torch.Tensor:
        """The mixed prompt [s, d]."""
        return torch.einsum("k,ksd->sd", self.weights(prompt), prompt + prompt @ self.down @ self.up)


@method("ept_prompt_fusion", family="edits", paper="arXiv:2405.11464")
class PromptFusion(Edit):
    """EPT: a prompt of `length` vectors stands before each row, in place of a longer one, enriched by what a
    difference of low rank to the row's embeddings knows, and mixed from several spaces.

    Lan et al. 2025. Three parts. (1) The long prompt is split into a short one P [s, d] and A [positions, r],
    B [r, d]: A B is added to the embeddings of a row's first tokens. (2) Fusion: P + γ · softmax(P Kᵀ / √d) K
    with the knowledge K = [P; B], and γ [d]. (3) `Spaces`. Fusion and spaces are our reading of the abstract:
    the paper's exact layers were not at hand. B, γ and what projects begin at zero, so that at first this is
    prompt tuning with P. Tokens which a decoder generates have nothing added.

    Parameters
    ----------
    length: s. rank: r. positions: so many tokens of a row have a difference of their own.
    spaces, inner: how many, and the width of each projection.
    """

    lr = 3e-3

    def __init__(
        self,
        backbone: Backbone,
        tasks: Sequence[str],
        *,
        length: int = 4,
        rank: int = 8,
        positions: int = 128,
        spaces: int = 3,
        inner: int = 8,
    ) -> None:
        super().__init__(tasks)
        for name, value in (("length", length), ("spaces", spaces)):
            if value < 1:
                raise ConfigError(f"ept_prompt_fusion: {name} = {value} is less than 1")
        self.prompt = nn.Parameter(first_prompt(backbone, length))
        width = self.prompt.shape[1]
        self.down = nn.Parameter(torch.randn(positions, rank) / math.sqrt(rank))
        self.up = nn.Parameter(torch.zeros(rank, width))
        self.fusion = nn.Parameter(torch.zeros(width))
        self.spaces = Spaces(width, spaces, inner)

    def own(self, task: str, lengths: Sequence[int]) -> Own:
        return Own({"tokens": partial(self._adapted, lengths)}, prompt=self.spaces(self.fused()))

    def fused(self) -> torch.Tensor:
        """The short prompt with what it attends to, [s, d]."""
        knowledge = torch.cat([self.prompt, self.up])
        scores = self.prompt @ knowledge.T / math.sqrt(knowledge.shape[1])
        return self.prompt + self.fusion * (scores.softmax(-1) @ knowledge)

    def _adapted(self, lengths: Sequence[int], embedded: torch.Tensor) -> torch.Tensor:
        """The embeddings of rows, each after the room for its prompt, with A B added to its first tokens."""
        room, reach = len(self.prompt), len(self.down)
        filled = [length for length in lengths if length]
        if len(embedded) == sum(filled):
            return embedded  # no room: the rows go on, with a generated token each
        places = torch.cat([torch.arange(-room, length) for length in filled]).to(embedded.device)
        at = ((places >= 0) & (places < reach)).nonzero()[:, 0]
        added = (self.down @ self.up)[places[at]]
        return embedded.index_add(0, at, added.to(embedded.dtype))
