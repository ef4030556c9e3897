"""MAPS: what an attention head does to tokens, read off its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from taskheads.attention.factored import Factored
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.attention.vocabulary import ahead, lone, token_map, unembedding
from taskheads.errors import ConfigError
from taskheads.methods import method

# For each relation its pairs: a source token and the token that stands for it.
Relations = Mapping[str, Sequence[tuple[int, int]]]


@method("maps_head_functionality", family="inspect", paper="arXiv:2412.11965")
def relation_scores(
    heads: AttentionHeads, language_head: nn.Module, relations: Relations, *, k: int = 10
) -> HeadScores:
    """For every attention head and relation, the share of its pairs (s, t) with t among the k tokens that the
    head promotes most when it looks at s: rows of the map M = E W_V W_O U from tokens to tokens.

    E are effective embeddings (those behind the first feed-forward block), as the layer's norm gives them to
    the head; U is the language head with the final norm's gain in it. No row of text is run.

    Parameters
    ----------
    relations: by name, pairs of token ids. k: 1 to 10 in the paper, by relation.

    Elhelo and Geva 2024, section 3.1; scores come by relation, as tasks. Raises ConfigError for a relation
    without a pair.
    """
    return _scored(heads, language_head, relations, k, promoted=True)


def suppression_scores(
    heads: AttentionHeads, language_head: nn.Module, relations: Relations, *, k: int = 10
) -> HeadScores:
    """The same of the k tokens that the head demotes most: the relation scores of -M (section 3.1)."""
    return _scored(heads, language_head, relations, k, promoted=False)


@dataclass(frozen=True)
class Mapped:
    """A source token, how strongly a head answers to it (the norm of what it writes), and the tokens that it
    promotes most, best first."""

    source: int
    strength: float
    targets: tuple[int, ...]


@torch.no_grad()
def salient(
    heads: AttentionHeads,
    language_head: nn.Module,
    head: tuple[int, int],
    *,
    sources: Sequence[int] | None = None,
    most: int = 30,
    k: int = 5,
) -> list[Mapped]:
    """What a head is for: the source tokens whose image under W_V W_O is longest, and what each becomes
    (section 5: they are shown to somebody who names the operation). sources: all tokens by default."""
    layer, number = head
    unembedded = unembedding(heads, language_head)
    sources = range(len(unembedded)) if sources is None else sources
    mapped = token_map(heads, layer, lone(heads, sources), unembedded)
    strength = (mapped.left[number] @ heads.output_weight(layer)[number]).norm(dim=-1)
    strongest = strength.topk(min(most, len(sources))).indices.tolist()
    rows = mapped.left[number, strongest] @ mapped.right[number]
    return [
        Mapped(sources[at], float(strength[at]), tuple(row.topk(k).indices.tolist()))
        for at, row in zip(strongest, rows, strict=True)
    ]


@torch.no_grad()
def _scored(
    heads: AttentionHeads, language_head: nn.Module, relations: Relations, k: int, promoted: bool
) -> HeadScores:
    for name, pairs in relations.items():
        if not pairs:
            raise ConfigError(f"the relation {name!r} has no pair")
    every = torch.tensor([pair for pairs in relations.values() for pair in pairs])
    streams, unembedded = lone(heads, every[:, 0].tolist()), unembedding(heads, language_head)
    found = torch.full((len(every), *heads.shape), torch.nan)
    for layer in range(heads.n_layers):
        mapped = token_map(heads, layer, streams, unembedded)
        signed = mapped if promoted else Factored(-mapped.left, mapped.right)
        found[:, layer, : heads.counts[layer]] = (ahead(signed, every[:, 1]) < k).T.float().cpu()
    parts = found.split([len(pairs) for pairs in relations.values()])
    measured = "promoted" if promoted else "suppressed"
    scores = {
        name: HeadScores.of(part.mean(0), n=len(part)) for name, part in zip(relations, parts, strict=True)
    }
    return HeadScores.stacked(
        scores, measured=measured, k=k, model=heads.backbone.name, fingerprint=heads.backbone.fingerprint
    )
