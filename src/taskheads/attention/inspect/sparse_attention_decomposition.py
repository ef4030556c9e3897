"""Sparse attention decomposition: the few terms of a score that make a head look, and who wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from taskheads.attention.changing import site_of
from taskheads.attention.direct import through_norm
from taskheads.attention.factored import Factored
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.streams import Streams, streams
from taskheads.attention.vocabulary import reading_norm
from taskheads.attention.which import AttentionHead
from taskheads.backbone.changes import Changes
from taskheads.backbone.hearing import Heard
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.composing import then
from taskheads.edits.edited import frozen
from taskheads.edits.maps import weight_of
from taskheads.errors import ConfigError
from taskheads.methods import method

Side = Literal["query", "key"]
_READ = ("query", "key", "scores", "pattern")


@dataclass(frozen=True)
class Read:
    """One side of a signal: what the kept terms read of the residual stream at a token.

    Attributes
    ----------
    token: its position in the row.
    directions: [kept, D], the terms' singular vectors as directions of the stream, before the norm.
    heads: what each earlier head wrote along them there [layers below, heads, kept]; rest: all else;
        constant: what biases add. They sum to `total`, the projections of what the head reads.
    weights: what a unit along each direction adds to the score, on the query's side to its excess [kept].
    """

    token: int
    directions: torch.Tensor
    heads: torch.Tensor
    rest: torch.Tensor
    constant: torch.Tensor
    weights: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        return self.heads.sum((0, 1)) + self.rest + self.constant

    @property
    def shares(self) -> torch.Tensor:
        """What each earlier head adds to the score in this way [layers below, heads]."""
        return self.heads @ self.weights


@dataclass(frozen=True)
class Signal:
    """Why a head looks from one token at another.

    Attributes
    ----------
    terms: [width], sigma_k (x_d . u_k)(v_k . x_s), by falling singular value; they sum to the score.
    excess: [width], what of each the source has beyond the mean of the other tokens in sight.
    kept: the fewest terms with the wanted share of the excess, the largest first.
    query, key: what they read at the destination and at the source.
    """

    terms: torch.Tensor
    excess: torch.Tensor
    kept: tuple[int, ...]
    query: Read
    key: Read


class Link(NamedTuple):
    """An earlier head whose output at a token makes a reader look; `share` of the reader's excess."""

    writer: AttentionHead
    reader: AttentionHead
    side: Side
    token: int
    share: float


@dataclass(frozen=True)
class Row:
    """One pass over one row, kept for the signals of all of its heads."""

    heads: AttentionHeads
    batch: RaggedBatch
    run: Streams

    @classmethod
    def of(cls, heads: AttentionHeads, batch: RaggedBatch) -> Row:
        """Raises ConfigError for more rows than one."""
        if len(batch) != 1:
            raise ConfigError(f"a signal is traced in one row, not in {len(batch)}")
        layers = range(heads.n_layers)
        return cls(heads, batch, streams(heads, batch, [site_of(n, part) for n in layers for part in _READ]))

    def signal(self, head: tuple[int, int], destination: int, source: int, share: float = 0.9) -> Signal:
        """The terms of a head's score for a pair of positions, and those that make the source stand out."""
        layer, _ = head
        given, (asks, offers) = _maps_at(self.heads, self.batch, head, (destination, source))
        u, sizes, v = Factored(asks * self._scale(head), offers.mT).svd()
        asked, found = given[destination] @ u, given @ v
        beyond = found[source] - self._others(found, destination, source)
        excess = sizes * asked * beyond
        kept = _fewest(excess, share)
        query = self._side(layer, destination, u[:, kept], (sizes * beyond)[kept])
        key = self._side(layer, source, v[:, kept], (sizes * asked)[kept])
        return Signal(sizes * asked * found[source], excess, tuple(kept), query, key)

    def _others(self, keys: torch.Tensor, destination: int, source: int) -> torch.Tensor:
        """The mean over the other tokens that the destination can look at."""
        seen = len(keys) if not self.heads.backbone.causal else destination + 1
        others = [token for token in range(seen) if token != source]
        return keys[others].mean(0) if others else torch.zeros_like(keys[0])

    def _scale(self, head: tuple[int, int]) -> torch.Tensor:
        """What products of queries and keys are multiplied by on their way to scores."""
        layer, number = head
        query, key, scores = (self.run.found[site_of(layer, part)] for part in _READ[:3])
        products = query[:, number] @ key[:, self.heads.key_head(layer, number)].T
        mine = scores[:, number]
        seen = ~mine.isneginf()
        return (mine[seen] * products[seen]).sum() / products[seen].square().sum()

    def _side(self, layer: int, token: int, vectors: torch.Tensor, weights: torch.Tensor) -> Read:
        """vectors: [D + 1, kept]; the last number of each reads the bias."""
        stream = self.run.before[layer][[token]]
        norm = reading_norm(self.heads, layer)
        directions, constant = through_norm(norm, stream, vectors[:-1].T[None])
        written, rest = self.run.written(layer, token)
        towards = directions[0].T
        return Read(
            token, directions[0], written @ towards, rest @ towards, constant[0] + vectors[-1], weights
        )


@method("sparse_attention_decomposition", family="inspect", paper="arXiv:2410.00340")
@torch.no_grad()
def sparse_attention_decomposition(
    heads: AttentionHeads,
    batch: RaggedBatch,
    head: tuple[int, int],
    destination: int,
    source: int,
    *,
    share: float = 0.9,
    least: float = 0.1,
) -> list[Link]:
    """The circuit behind a head's look from one token at another, from a single pass: with biases as one more
    coordinate, its score is x_d' O x_s; of the singular value decomposition of O few terms make the source
    stand out, and the earlier heads that wrote what these read are the next to be asked.

    Parameters
    ----------
    batch: one row. destination, source: positions in it.
    share: of the score's excess over other tokens, that the kept terms have. least: of that excess, what a
        head must have written to be a link. Whichever token a writer looks at most, it is asked about.

    Rotations by position are in O, as they are at the two positions. Franco and Crovella 2024. Raises
    BackboneError where the stream is no plain sum (BERT), ConfigError for more rows than one.
    """
    row = Row.of(heads, batch)
    links: list[Link] = []
    asked: set[tuple[AttentionHead, int]] = set()
    waiting = [(AttentionHead(*head), destination, source)]
    while waiting:
        reader, d, s = waiting.pop(0)
        if (reader, d) in asked:
            continue
        asked.add((reader, d))
        found = row.signal(reader, d, s, share)
        sides: tuple[tuple[Side, Read], ...] = (("query", found.query), ("key", found.key))
        for side, read in sides:
            shares = read.shares / found.excess.sum()
            for layer, number in (shares >= least).nonzero().tolist():
                writer = AttentionHead(layer, number)
                links.append(Link(writer, reader, side, read.token, float(shares[layer, number])))
                looked = int(row.run.found[site_of(layer, "pattern")][read.token, number].argmax())
                waiting.append((writer, read.token, looked))
    return links


def silenced(heads: AttentionHeads, writer: tuple[int, int], read: Read) -> Changes:
    """The changes of a pass over the row in which what a head writes at a signal's token has no part along
    the signal's directions."""
    layer, number = writer
    projection = heads.backbone.layout.maps[layer].attention_output
    onto = torch.linalg.pinv(read.directions) @ read.directions

    def silence(given: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        z = given[[read.token]].unflatten(1, (heads.counts[layer], heads.width))
        made = made.clone()
        made[read.token] -= heads.contributions(layer, z, [number])[0, 0] @ onto
        return made

    return Changes(maps={projection: silence})


@torch.inference_mode(False)
@torch.enable_grad()
def _maps_at(
    heads: AttentionHeads, batch: RaggedBatch, head: tuple[int, int], tokens: Sequence[int]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What the head's layer is given, with a 1 for the bias [N, D + 1], and the maps from that to its query
    at the first of two tokens and its key at the second, rotations and all [D + 1, width]."""
    layer, number = head
    backbone = heads.backbone
    names = backbone.layout.maps[layer].attention
    heard = Heard(names)
    moves: dict[str, torch.Tensor] = {}

    def moved(name: str) -> Changes:
        def move(_: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
            moves[name] = torch.zeros_like(made, requires_grad=True)
            return made + moves[name]

        return Changes(maps={name: move})

    changes = heard.changes
    for name in names:
        changes = then(changes, moved(name))
    sites = [site_of(layer, "query"), site_of(layer, "key")]
    with frozen(backbone):
        found = backbone.run(batch, sites, changes)
    numbers = (number, heads.key_head(layer, number))
    maps = []
    for site, token, own in zip(sites, tokens, numbers, strict=True):
        columns = []
        for value in found[site][token, own]:
            slopes = torch.autograd.grad(value, list(moves.values()), retain_graph=True, allow_unused=True)
            columns.append(_column(heads, dict(zip(moves, slopes, strict=True)), token))
        maps.append(torch.stack(columns, 1))
    given = heard.inputs[names[0]][0].detach()
    return torch.cat([given, torch.ones_like(given[:, :1])], 1), maps


def _column(heads: AttentionHeads, slopes: dict[str, torch.Tensor | None], token: int) -> torch.Tensor:
    """From the slopes of a number in the outputs of linear maps [N, out], those in their input and a 1 at a
    token [D + 1]."""
    total = None
    for name, slope in slopes.items():
        if slope is None:
            continue
        weight = weight_of(heads.backbone, name).detach()
        bias = getattr(heads.backbone.model.get_submodule(name), "bias", None)
        of_bias = slope[token].new_zeros(1) if bias is None else (slope[token] @ bias.detach())[None]
        mine = torch.cat([slope[token] @ weight, of_bias])
        total = mine if total is None else total + mine
    assert total is not None
    return total


def _fewest(excess: torch.Tensor, share: float) -> list[int]:
    """The largest numbers that together make such a share of the sum, largest first; none of one below 0."""
    if excess.sum() <= 0:
        return []
    order = excess.argsort(descending=True)
    enough = int((excess[order].cumsum(0) >= share * excess.sum()).nonzero()[0, 0]) + 1
    return order[:enough].tolist()
