"""Contextual decomposition of transformers: how much of any activation is a source's doing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from taskheads.attention.changing import site_of
from taskheads.attention.direct import final_norm
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.norms import normed
from taskheads.attention.scores import HeadScores, Mean
from taskheads.attention.which import AttentionHead
from taskheads.backbone.changes import Change, Changes, MapChange
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import pool
from taskheads.methods import method

# Tokens, bool [N], or attention heads.
Source = torch.Tensor | Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Parts:
    """An activation as a sum, for each of k sources.

    Attributes
    ----------
    beta: the part that is due to each source [k, N, ...]. gamma: the rest of it [k, N, ...].
    """

    beta: torch.Tensor
    gamma: torch.Tensor


@torch.no_grad()
def decomposed(
    heads: AttentionHeads, batch: RaggedBatch, sources: Sequence[Source], read: Sequence[str] = ("output",)
) -> dict[str, Parts]:
    """What stands at the sites `read` as beta, due to a source, and gamma, for each of the sources, in one
    pass over 1 + 2k copies of the batch: the rows as they are, their betas and their gammas.

    Linear maps take beta and gamma apart, and share their bias as the two are large, number by number;
    attention weighs values with the patterns of the rows as they are, norms divide by their statistics; what
    is not linear in a feed-forward block, f, gives beta [f(beta) + f(beta + gamma) - f(gamma)] / 2, its
    Shapley value. A source of tokens is beta at the embeddings; one of heads is the whole of their outputs,
    with nothing of what is below.

    Hsu et al. 2024.
    """
    return _Decomposition(heads, batch, sources).read(read)


@dataclass(frozen=True)
class Relevance:
    """What every head is to the output, and to the heads above it.

    Attributes
    ----------
    to_output: how much of the asked number is a head's doing, the mean over the rows.
    between: [layers, heads, layers, heads], the share of a later head's output, in norm over a row, that is
        an earlier one's doing; NaN elsewhere.
    """

    to_output: HeadScores
    between: torch.Tensor

    def circuit(self, least: float, share: float = 0.5) -> tuple[AttentionHead, ...]:
        """From the output backwards: the heads with at least so much of the number, and again and again
        those that have at least such a share in one that was found."""
        found = set(self.to_output.above(least))
        new = found
        while new:
            senders = torch.stack([self.between[:, :, layer, head] >= share for layer, head in new]).any(0)
            new = {AttentionHead(*pair) for pair in senders.nonzero().tolist()} - found
            found |= new
        return tuple(sorted(found))


@method("contextual_decomposition_transformers", family="inspect", paper="arXiv:2407.00886")
@torch.no_grad()
def contextual_decomposition_transformers(
    heads: AttentionHeads, batch: RaggedBatch, directions: torch.Tensor
) -> Relevance:
    """The relevance of every attention head, as a source, for a number read off the output at each row's last
    token and for every head above it, by contextual decomposition; one pass for all heads of a layer.

    directions: [rows, D] or [D], what the number is the product with: an unembedding vector, or the
    difference of two.

    Hsu et al. 2024: `Relevance.circuit` finds a circuit from the output backwards.
    """
    layers = range(heads.n_layers)
    to_output = torch.full((len(batch), *heads.shape), torch.nan)
    between = torch.full((*heads.shape, *heads.shape), torch.nan)
    for layer in layers:
        some = range(heads.counts[layer])
        above = [site_of(n) for n in layers if n > layer]
        found = decomposed(heads, batch, [[(layer, head)] for head in some], [*above, "output"])
        for head in some:
            last = pool(found["output"].beta[head], batch, "last")
            to_output[:, layer, head] = (last * directions).sum(-1)
        for n, site in enumerate(above, layer + 1):
            parts = found[site]
            whole = _sizes(parts.beta[:1] + parts.gamma[:1], batch)
            shares = _sizes(parts.beta, batch) / whole.clamp_min(torch.finfo(whole.dtype).tiny)
            between[layer, : len(some), n, : heads.counts[n]] = shares.mean(1)
    mean = Mean(heads.shape)
    mean.add(to_output)
    backbone = heads.backbone
    return Relevance(mean.scores({"model": backbone.name, "fingerprint": backbone.fingerprint}), between)


def _sizes(z: torch.Tensor, batch: RaggedBatch) -> torch.Tensor:
    """The norm over a row of each head's output, [k, N, heads, width] to [k, rows, heads]."""
    squares = z.square().sum(-1)
    rows = squares.new_zeros(len(z), len(batch), z.shape[2])
    return rows.index_add(1, batch.row_of_token, squares).sqrt()


class _Decomposition:
    """The changes of a pass over copies of a batch that keep them parts of the first."""

    def __init__(self, heads: AttentionHeads, batch: RaggedBatch, sources: Sequence[Source]) -> None:
        self.heads, self.sources, self.count = heads, sources, len(sources)
        self.backbone = heads.backbone
        self.last = f"layers.{heads.n_layers - 1}.output"
        plain = self.backbone.run(batch, [self.last, "output"])
        self.norm = final_norm(self.backbone, plain[self.last], plain["output"])
        self.batch = batch.repeated(1 + 2 * self.count)
        self.stream = plain[self.last]

    def read(self, sites: Sequence[str]) -> dict[str, Parts]:
        changes = Changes(sites=self._sites(), maps=self._maps())
        found = self.backbone.run(self.batch, sites, changes)
        return {site: Parts(*self._apart(each)[1:]) for site, each in found.items()}

    def _apart(self, copies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The whole [N, ...], the betas and the gammas [k, N, ...]."""
        each = copies.unflatten(0, (1 + 2 * self.count, -1))
        return each[0], each[1 : 1 + self.count], each[1 + self.count :]

    def _together(self, whole: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return torch.cat([whole[None], beta, whole - beta]).flatten(0, 1)

    def _sites(self) -> dict[str, Change]:
        sites: dict[str, Change] = {"embeddings": self._at_embeddings, self.last: self._at_last}
        for layer in range(self.heads.n_layers):
            sites[site_of(layer, "pattern")] = self._at_pattern
            sites[f"layers.{layer}.mlp.hidden"] = self._at_hidden
            if any(n == layer for n, _ in self._heads()):
                sites[site_of(layer)] = self._at_heads(layer)
        return {**sites, "output": self._at_output}

    def _maps(self) -> dict[str, MapChange]:
        modules = self.backbone.layout.modules
        norms = {name for maps in self.backbone.layout.maps for name in maps.norms}
        return {name: self._at_norm(name) if name in norms else self._at_linear(name) for name in modules}

    def _heads(self) -> list[tuple[int, int]]:
        return [pair for source in self.sources if not isinstance(source, torch.Tensor) for pair in source]

    def _at_embeddings(self, copies: torch.Tensor) -> torch.Tensor:
        whole, beta, _ = self._apart(copies)
        beta = torch.zeros_like(beta)
        for mine, source in zip(beta, self.sources, strict=True):
            if isinstance(source, torch.Tensor):
                mine.copy_(whole * source[:, None])
        return self._together(whole, beta)

    def _at_heads(self, layer: int) -> Change:
        def change(copies: torch.Tensor) -> torch.Tensor:
            whole, beta, _ = self._apart(copies)
            beta = beta.clone()
            for mine, source in zip(beta, self.sources, strict=True):
                if not isinstance(source, torch.Tensor):
                    some = [head for n, head in source if n == layer]
                    mine[:, some] = whole[:, some]
            return self._together(whole, beta)

        return change

    def _at_pattern(self, copies: torch.Tensor) -> torch.Tensor:
        whole, _, _ = self._apart(copies)
        return whole.repeat(1 + 2 * self.count, 1, 1)

    def _at_hidden(self, copies: torch.Tensor) -> torch.Tensor:
        whole, beta, gamma = self._apart(copies)
        return self._together(whole, (beta + whole - gamma) / 2)

    def _at_linear(self, name: str) -> MapChange:
        bias = _bias(self.backbone.model.get_submodule(name))

        def change(_: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
            whole, beta, gamma = self._apart(made)
            return self._together(whole, _with_bias(beta - bias, gamma - bias, bias))

        return change

    def _at_norm(self, name: str) -> MapChange:
        # A copy: within the pass, the model's own tells of every call.
        norm = copy.deepcopy(self.backbone.model.get_submodule(name))
        return lambda given, made: self._normed(norm, given, made)

    def _at_last(self, copies: torch.Tensor) -> torch.Tensor:
        self.stream = copies
        return copies

    def _at_output(self, copies: torch.Tensor) -> torch.Tensor:
        return copies if isinstance(self.norm, nn.Identity) else self._normed(self.norm, self.stream, copies)

    def _normed(self, norm: nn.Module, given: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        whole, beta, gamma = self._apart(given)
        parts = normed(norm, whole, torch.cat([beta, gamma]).transpose(0, 1)).transpose(0, 1)
        beta, gamma = parts.split(self.count)
        return self._together(self._apart(made)[0], _with_bias(beta, gamma, _bias(norm)))


def _bias(module: nn.Module) -> torch.Tensor | float:
    bias = getattr(module, "bias", None)
    return 0.0 if bias is None else bias


def _with_bias(beta: torch.Tensor, gamma: torch.Tensor, bias: torch.Tensor | float) -> torch.Tensor:
    """Beta with its share of the bias; where both are 0, none of it."""
    sizes = beta.abs(), gamma.abs()
    return beta + bias * sizes[0] / (sizes[0] + sizes[1]).clamp_min(torch.finfo(beta.dtype).tiny)
