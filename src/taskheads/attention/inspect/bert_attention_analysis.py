"""What attention heads look at: distances between heads, and heads as parsers that nobody trained.

Shares of attention on special tokens, offsets and entropies are `taskheads.attention.statistics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from taskheads.attention.changing import site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method


@dataclass(frozen=True)
class Parsed:
    """A row of words with its tree.

    Attributes
    ----------
    row: its tokens, with where each word starts (`Encoded.words`). links: (dependent, head, relation) by the
        words' numbers; or any other pairs of words, such as a mention and its antecedent. after: how many
        special tokens come after the last word.
    """

    row: Encoded
    links: Sequence[tuple[int, int, str]]
    after: int = 0


@dataclass(frozen=True)
class Followed:
    """How often each attention head's most looked-at word is the right one.

    Attributes
    ----------
    upward: accuracy of a dependent's look at its head, by relation as tasks. downward: of the head's look at
        the dependent. offsets: by relation, the accuracy of the best fixed distance, and that distance.
    """

    upward: HeadScores
    downward: HeadScores
    offsets: Mapping[str, tuple[float, int]]


def word_weights(pattern: torch.Tensor, words: np.ndarray, end: int) -> torch.Tensor:
    """Token patterns [..., n, n] as weights between words [..., words + 1, words + 1]: those to a word's
    tokens are summed, those from them are meant (section 4.1), so that each row sums to 1 still. The last row
    and column are all tokens that are of no word.

    words: where each starts. end: where the last one ends.
    """
    tokens, count = torch.arange(pattern.shape[-1]), len(words)
    owner = torch.bucketize(tokens, torch.from_numpy(np.asarray(words)), right=True) - 1
    owner[(owner < 0) | (tokens >= end)] = count
    members = torch.nn.functional.one_hot(owner, count + 1).T.to(pattern)
    return members / members.sum(1, keepdim=True).clamp_min(1) @ pattern @ members.T


@method("bert_attention_analysis", family="inspect", paper="arXiv:1906.04341")
@torch.inference_mode()
def followed_relations(heads: AttentionHeads, parsed: Sequence[Parsed]) -> Followed:
    """Every attention head as a classifier without a parameter: for each word, the word that it looks at most
    is taken for its syntactic head (or dependent), and scored for each relation; so is the best fixed offset.

    Clark et al. 2019, section 4.2. A word never stands for itself. Raises ConfigError where there is no link.
    """
    right: dict[str, list[torch.Tensor]] = {}
    apart: dict[str, list[int]] = {}
    for row, weights in _by_words(heads, parsed):
        best = weights.masked_fill(torch.eye(weights.shape[-1], dtype=torch.bool), -1).argmax(-1)
        for dependent, head, relation in row.links:
            hits = torch.stack([best[..., dependent] == head, best[..., head] == dependent])
            right.setdefault(relation, []).append(hits)
            apart.setdefault(relation, []).append(head - dependent)
    if not right:
        raise ConfigError("heads are scored on links between words, and there is none")
    offsets = {relation: _best_offset(each) for relation, each in apart.items()}
    about = {"model": heads.backbone.name, "fingerprint": heads.backbone.fingerprint}

    def scores(way: int) -> HeadScores:
        by = {}
        for relation, hits in right.items():
            each = torch.stack(hits)[:, way].float()
            error = (each.var(0, correction=0) / len(each)).sqrt()
            by[relation] = HeadScores(each.mean(0), error, {"n": len(each)})
        return HeadScores.stacked(by, measured=("upward", "downward")[way], **about)

    return Followed(scores(0), scores(1), offsets)


@torch.inference_mode()
def head_distances(heads: AttentionHeads, batches: Iterable[RaggedBatch]) -> torch.Tensor:
    """How differently attention heads look: the Jensen-Shannon divergence of their patterns, summed over all
    tokens [heads of all layers, the same] (section 6)."""
    count = sum(heads.counts)
    found = torch.zeros(count, count, dtype=torch.float64)
    for batch in batches:
        seen = _patterns(heads, batch)
        weights = torch.cat([seen[layer] for layer in range(heads.n_layers)], 1).transpose(0, 1)
        own = torch.special.entr(weights).sum((1, 2))
        for head, each in enumerate(weights):
            mixed = torch.special.entr((each + weights) / 2).sum((1, 2))
            found[head] += (mixed - (own[head] + own) / 2).double().cpu()
    return found.clamp_min(0)


def placed(distances: torch.Tensor, dimensions: int = 2) -> torch.Tensor:
    """Points [n, dimensions] whose distances are near the given ones: classical multidimensional scaling."""
    squared = distances.double().square()
    centred = squared - squared.mean(0) - squared.mean(1, keepdim=True) + squared.mean()
    values, vectors = torch.linalg.eigh(-centred / 2)
    return (vectors * values.clamp_min(0).sqrt())[:, -dimensions:].flip(1)


class AttentionProbe:
    """A parser from all attention heads k at once: i's head is j with p ∝ exp(Σ_k (w_k α^k_ij + u_k α^k_ji) ·
    f_ij), f_ij being features of the pair of words: 1 alone, or vectors of both (section 5).

    Attributes
    ----------
    weights: [2, heads of all layers, features], w and u; their size says on whom the parser leans.
    """

    def __init__(self, weights: torch.Tensor) -> None:
        self.weights = weights

    @classmethod
    def fit(
        cls,
        heads: AttentionHeads,
        parsed: Sequence[Parsed],
        vectors: Sequence[torch.Tensor] | None = None,
        *,
        decay: float = 1e-3,
        steps: int = 100,
    ) -> AttentionProbe:
        """By the likelihood of the links, less `decay` times the weights' squares (L-BFGS; convex).

        vectors: of each row's words [words, size], such as GloVe's; then f_ij is v_i beside v_j.
        """
        given = cls._given(heads, parsed, vectors)
        weights = torch.zeros(2, given[0][0].shape[1], given[0][1].shape[-1], requires_grad=True)
        best = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")
        links = [torch.tensor([(link[0], link[1]) for link in row.links]).view(-1, 2) for row in parsed]

        def closure() -> torch.Tensor:
            best.zero_grad()
            logs = [
                cls(weights)._scores(*each).log_softmax(-1)[at[:, 0], at[:, 1]]
                for each, at in zip(given, links, strict=True)
            ]
            loss = decay * weights.square().sum() - torch.cat(logs).mean()
            loss.backward()
            return loss

        with torch.enable_grad():
            best.step(closure)
        return cls(weights.detach())

    def heads_of(
        self, heads: AttentionHeads, parsed: Sequence[Parsed], vectors: Sequence[torch.Tensor] | None = None
    ) -> list[torch.Tensor]:
        """For each row, the word that each of its words depends on [words]."""
        return [self._scores(*each).argmax(-1) for each in self._given(heads, parsed, vectors)]

    @staticmethod
    @torch.no_grad()
    def _given(
        heads: AttentionHeads, parsed: Sequence[Parsed], vectors: Sequence[torch.Tensor] | None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each row α both ways [2, heads, words, words] and features [words, words, size]."""
        found = []
        for number, (_, weights) in enumerate(_by_words(heads, parsed)):
            known = ~weights[..., 0, 0].isnan()
            alpha = weights[known]
            size = alpha.shape[-1]
            features = torch.ones(size, size, 1)
            if vectors is not None:
                own = vectors[number]
                pairs = own[:, None].expand(-1, size, -1), own[None].expand(size, -1, -1)
                features = torch.cat(pairs, -1)
            found.append((torch.stack([alpha, alpha.mT]), features))
        return found

    def _scores(self, alpha: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("wkij,wkf,ijf->ij", alpha, self.weights, features)
        return scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)


def _by_words(heads: AttentionHeads, parsed: Sequence[Parsed]) -> Iterator[tuple[Parsed, torch.Tensor]]:
    """Each row with its heads' weights between words [layers, heads, words, words]."""
    for each in parsed:
        row = each.row
        if row.words is None or (row.words < 0).any():
            raise ConfigError("a row to be parsed says where each of its words starts")
        seen = _patterns(heads, RaggedBatch([row]).to(heads.backbone.device))
        whole = torch.full((*heads.shape, len(row), len(row)), torch.nan)
        for layer, pattern in seen.items():
            whole[layer, : pattern.shape[1]] = pattern.transpose(0, 1).cpu()
        yield each, word_weights(whole, row.words, len(row) - each.after)[..., :-1, :-1]


def _patterns(heads: AttentionHeads, batch: RaggedBatch) -> dict[int, torch.Tensor]:
    """By layer [N, heads, longest row]."""
    sites = [site_of(layer, "pattern") for layer in range(heads.n_layers)]
    found = heads.backbone.run(batch, sites)
    return {layer: found[site] for layer, site in enumerate(sites)}


def _best_offset(apart: Sequence[int]) -> tuple[float, int]:
    values, counts = np.unique(apart, return_counts=True)
    best = counts.argmax()
    return float(counts[best] / len(apart)), int(values[best])
