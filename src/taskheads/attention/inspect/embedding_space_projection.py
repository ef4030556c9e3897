"""Weights in the space of tokens: what each of them says of tokens, whichever basis the model works in."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy.optimize import linear_sum_assignment

from taskheads.attention.factored import Factored
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.vocabulary import embedding_of
from taskheads.edits.maps import weight_of
from taskheads.methods import method


@method("embedding_space_projection", family="inspect", paper="arXiv:2209.02535")
class EmbeddingSpace:
    """A model's weights as vectors and matrices over its vocabulary, with no pass at all: x of the residual
    stream becomes x Eᵀ, E [V, D] the token embeddings.

    Dar et al. 2022, section 3 and table 1. Norms are left out, as there. What comes out does not depend on
    the basis of the residual stream, so that weights of two models with one vocabulary can be compared.
    """

    def __init__(self, heads: AttentionHeads) -> None:
        self.heads, self.embedding = heads, embedding_of(heads.backbone)

    def keys(self, layer: int) -> torch.Tensor:
        """What each neuron of the feed-forward block answers to [neurons, V]: rows of K Eᵀ; of a gated one,
        of its gate."""
        name = self.heads.backbone.layout.maps[layer].mlp[0]
        return weight_of(self.heads.backbone, name).detach() @ self.embedding.T

    def values(self, layer: int) -> torch.Tensor:
        """What each neuron of the feed-forward block writes [neurons, V]: rows of V Eᵀ."""
        name = self.heads.backbone.layout.maps[layer].mlp[-1]
        return weight_of(self.heads.backbone, name).detach().T @ self.embedding.T

    def ov(self, layer: int, head: int) -> Factored:
        """[V, V], E W_V W_O Eᵀ: what looking at the row's token does to the column's."""
        return self._both(self.heads.ov(layer, head))

    def qk(self, layer: int, head: int) -> Factored:
        """[V, V], E W_Q W_Kᵀ Eᵀ: how much the row's token, asking, looks at the column's. As the stream has
        it at the first position, where rotary models turn nothing."""
        return self._both(self.heads.qk(layer, head))

    def _both(self, inner: Factored) -> Factored:
        return Factored(self.embedding @ inner.left.detach(), inner.right.detach() @ self.embedding.T)


def top_pairs(matrix: Factored, count: int, *, rows_at_once: int = 1024) -> list[tuple[int, int, float]]:
    """The largest entries of a matrix over pairs of tokens, as (row, column, value), best first; it is never
    there as a whole."""
    found: list[tuple[int, int, float]] = []
    for start, rows in _rows(matrix, rows_at_once):
        best = rows.flatten().topk(min(count, rows.numel()))
        for value, at in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row, column = divmod(at, rows.shape[1])
            found.append((start + row, column, value))
        found = sorted(found, key=lambda each: -each[2])[:count]
    return found


def matched(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """For each of n parameters of one model, given as projections [n, V], the one of another model's that it
    is: the pairing with the largest sum of correlations [n] (section 4.2)."""
    first, second = (
        torch.nn.functional.normalize(each - each.mean(1, keepdim=True), dim=1) for each in (mine, theirs)
    )
    return torch.from_numpy(linear_sum_assignment(-(first @ second.T).cpu().numpy())[1])


def carried(weight: torch.Tensor, mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """What reads or writes the stream of one model [k, D], for another one [k, D'] with the same vocabulary:
    to the space of tokens and back by the pseudo-inverse (section 4.3).

    weight: a classifier, or by how much fine-tuning changed a map. mine, theirs: embeddings [V, D], [V, D'].
    """
    return weight @ mine.T @ torch.linalg.pinv(theirs).T


def _rows(matrix: Factored, step: int) -> Iterator[tuple[int, torch.Tensor]]:
    for start in range(0, len(matrix.left), step):
        yield start, matrix.left[start : start + step] @ matrix.right
