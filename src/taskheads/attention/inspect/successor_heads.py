"""Successor heads: attention heads that map a token of an ordered set to the one after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.attention.vocabulary import ahead, lone, token_map, unembedding
from taskheads.errors import ConfigError
from taskheads.methods import method


@method("successor_heads", family="inspect", paper="arXiv:2312.09230")
def succession_scores(
    heads: AttentionHeads, language_head: nn.Module, ordered: Sequence[Sequence[int]]
) -> HeadScores:
    """For every attention head, the share of tokens t of ordered sets (numbers, days, months, letters) for
    which the successor of t gets the highest logit of its set from W_U W_OV MLP0(W_E[t]).

    Parameters
    ----------
    ordered: sets of token ids, each in its order; the last of a set has no successor, unless the set begins
        again, as days do: then write the first once more at the end.

    Gould et al. 2023, section 3. Norms are applied, biases of values left out. Chance is one over the size of
    a set. Raises ConfigError for a set of fewer than two tokens.
    """
    right = [_right(heads, language_head, tokens) for tokens in ordered]
    return HeadScores.of(
        torch.cat(right).mean(0),
        n=sum(map(len, right)),
        model=heads.backbone.name,
        fingerprint=heads.backbone.fingerprint,
    )


@torch.no_grad()
def _right(heads: AttentionHeads, language_head: nn.Module, tokens: Sequence[int]) -> torch.Tensor:
    """[tokens but the last, layers, heads]: 1 where the successor comes first."""
    if len(tokens) < 2:
        raise ConfigError(f"{list(tokens)} is no ordered set: it has no successor")
    own = list(dict.fromkeys(tokens))
    wanted = torch.tensor([own.index(token) for token in tokens[1:]])
    streams, unembedded = lone(heads, tokens[:-1]), unembedding(heads, language_head)[own]
    found = torch.full((len(tokens) - 1, *heads.shape), torch.nan)
    for layer in range(heads.n_layers):
        first = ahead(token_map(heads, layer, streams, unembedded), wanted) == 0
        found[:, layer, : len(first)] = first.T.float().cpu()
    return found


class ModFeatures:
    """Directions for the place of a token in its order modulo some number, whatever the set: those of a
    linear probe of effective embeddings, in the paper's mod 10.

    Parameters
    ----------
    streams: [n, D], such as `taskheads.attention.vocabulary.lone` gives. places: of each in its order [n].
    ridge: of the probe, beside the mean square of the streams.

    Attributes
    ----------
    features: [modulus, D], a direction of the stream for each residue, of which the mean is taken off: the
        streams that the probe's answers are best explained by.
    """

    def __init__(
        self, streams: torch.Tensor, places: Sequence[int], *, modulus: int = 10, ridge: float = 1e-3
    ) -> None:
        residues = nn.functional.one_hot(torch.tensor(places) % modulus, modulus).to(streams)
        mean = streams.mean(0)
        centred, wanted = streams - mean, residues - residues.mean(0)
        gram = centred.T @ centred
        more = ridge * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
        self._mean, self._weight = mean, torch.linalg.solve(gram + more, centred.T @ wanted)
        self._offset, self.modulus = residues.mean(0), modulus
        self.features = torch.linalg.pinv(wanted) @ centred

    def residues(self, streams: torch.Tensor) -> torch.Tensor:
        """What the probe takes each stream's place for [n]."""
        return ((streams - self._mean) @ self._weight + self._offset).argmax(-1)

    def moved(self, streams: torch.Tensor, places: Sequence[int], to: Sequence[int]) -> torch.Tensor:
        """Streams [n, D] as they would be at other places: the feature of their own is taken off and that of
        `to` added, so that a successor head gives the successor of `to` (section 4.2)."""
        own, other = (torch.tensor(each) % self.modulus for each in (places, to))
        return streams - self.features[own] + self.features[other]
