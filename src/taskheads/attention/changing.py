"""Changes of attention heads, at any part of them: each makes `Changes` for a pass, and they compose by
`taskheads.edits.composing.then`.

A part is a site of a layer: `heads` (outputs [N, heads, width], the default), `query`, `key`, `value`, and
`scores` and `pattern` [N, heads, longest row]. Under grouped queries the heads of `key` and `value` are
numbered as those are (`AttentionHeads.key_head`). `tokens`, bool [N], are those that are changed, by default
all: `At(...).tokens(batch)`. Whatever is not named stays what it was, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch

from taskheads.attention.which import by_layer
from taskheads.backbone.changes import Change, Changes

Heads = Iterable[tuple[int, int]]
# A tensor by site, as a pass gives it [N, heads, ...], or the same for every token [heads, ...].
Found = Mapping[str, torch.Tensor]
# From the layer and what stands there, [n, chosen heads, ...], to what shall.
Edit = Callable[[int, torch.Tensor], torch.Tensor]


def site_of(layer: int, part: str = "heads") -> str:
    """The address of a part of a layer's attention."""
    return f"layers.{layer}.attention.{part}"


def edited(heads: Heads, edit: Edit, *, part: str = "heads", tokens: torch.Tensor | None = None) -> Changes:
    """What stands at these heads becomes what `edit` makes of it: the one that all others here are made of.

    edit: from the layer and [n, chosen heads, ...] to the same shape; n counts the chosen tokens, and the
    heads of one layer come in the order given.
    """
    at = None if tokens is None else tokens.nonzero()[:, 0]
    sites = {site_of(n, part): _Edited(n, some, edit, at) for n, some in by_layer(heads).items()}
    return Changes(sites=sites)


def scaled(
    heads: Heads, factor: float | torch.Tensor, *, part: str = "heads", tokens: torch.Tensor | None = None
) -> Changes:
    """z ← factor · z; 0 takes the heads out. A tensor [layers, heads] has a factor for each, and gets its
    gradient."""
    chosen = by_layer(heads)

    def edit(layer: int, z: torch.Tensor) -> torch.Tensor:
        return z * _each(factor, layer, chosen[layer], z)

    return edited(_pairs(chosen), edit, part=part, tokens=tokens)


def replaced(
    heads: Heads,
    by: Found,
    share: float | torch.Tensor = 1.0,
    *,
    part: str = "heads",
    tokens: torch.Tensor | None = None,
) -> Changes:
    """z ← (1 - share) z + share · by: another run's values (patching, resampling), or means.

    by: by site, [N, heads, ...] of a run of this very batch, or [heads, ...]. share: a number, or a tensor
    [layers, heads].
    """
    chosen = by_layer(heads)
    at = None if tokens is None else tokens.nonzero()[:, 0]

    def edit(layer: int, z: torch.Tensor) -> torch.Tensor:
        other = _of(by[site_of(layer, part)], chosen[layer], at, z)
        if isinstance(share, float) and share == 1.0:
            return other.expand_as(z)
        part_of = _each(share, layer, chosen[layer], z)
        return z * (1 - part_of) + other * part_of

    return edited(_pairs(chosen), edit, part=part, tokens=tokens)


def moved(
    heads: Heads,
    by: Found,
    factor: float | torch.Tensor = 1.0,
    *,
    part: str = "heads",
    tokens: torch.Tensor | None = None,
) -> Changes:
    """z ← z + factor · by: offsets and directions; as `replaced` takes them."""
    chosen = by_layer(heads)
    at = None if tokens is None else tokens.nonzero()[:, 0]

    def edit(layer: int, z: torch.Tensor) -> torch.Tensor:
        other = _of(by[site_of(layer, part)], chosen[layer], at, z)
        return z + other * _each(factor, layer, chosen[layer], z)

    return edited(_pairs(chosen), edit, part=part, tokens=tokens)


def blocked(heads: Heads, edges: torch.Tensor) -> Changes:
    """No token looks at the keys that `edges`, bool [N, longest row], has for it: their scores are -inf, and
    the other weights share what these had. Of tokens and keys that are `At` two places:
    `here.tokens(batch)[:, None] & there.keys(batch)`."""
    tokens = edges.any(1)
    forbidden = edges[tokens][:, None]
    return edited(
        heads, lambda _, scores: scores.masked_fill(forbidden, -torch.inf), part="scores", tokens=tokens
    )


def reweighted(heads: Heads, edges: torch.Tensor, factor: float | torch.Tensor) -> Changes:
    """The weights of the keys in `edges`, bool [N, longest row], become `factor` times as large beside the
    others, and all are scaled to sum to 1 again: log factor is added to their scores.

    factor: a number above 0, or a tensor [layers, heads].
    """
    chosen = by_layer(heads)
    tokens = edges.any(1)
    there = edges[tokens][:, None]

    def edit(layer: int, scores: torch.Tensor) -> torch.Tensor:
        if isinstance(factor, torch.Tensor):
            more = torch.as_tensor(_each(factor, layer, chosen[layer], scores)).log()
        else:
            more = scores.new_tensor(math.log(factor))
        return torch.where(there, scores + more, scores)

    return edited(_pairs(chosen), edit, part="scores", tokens=tokens)


def patched(found: Found, tokens: torch.Tensor | None = None) -> Changes:
    """Whole sites become what another run of the same batch found there, at some tokens or at all."""

    def put(other: torch.Tensor) -> Change:
        if tokens is None:
            return lambda _: other
        return lambda x: torch.where(tokens.view(-1, *[1] * (x.dim() - 1)), other, x)

    return Changes(sites={site: put(other) for site, other in found.items()})


class _Edited:
    """The change at one layer's site, of some heads and tokens."""

    def __init__(self, layer: int, heads: list[int], edit: Edit, at: torch.Tensor | None) -> None:
        self.layer, self.heads, self.edit, self.at = layer, heads, edit, at

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        heads = torch.tensor(self.heads, device=x.device)
        if self.at is None:
            return x.index_copy(1, heads, self.edit(self.layer, x[:, heads]).to(x.dtype))
        at = self.at[:, None]
        return x.index_put((at, heads[None]), self.edit(self.layer, x[at, heads[None]]).to(x.dtype))


def _pairs(chosen: Mapping[int, list[int]]) -> list[tuple[int, int]]:
    return [(layer, head) for layer, some in chosen.items() for head in some]


def _each(
    factor: float | torch.Tensor, layer: int, heads: list[int], z: torch.Tensor
) -> torch.Tensor | float:
    """A number for each head, to be multiplied with z [n, heads, ...]."""
    if not isinstance(factor, torch.Tensor) or factor.dim() == 0:
        return factor
    return factor[layer, heads].to(z.dtype).view(-1, *[1] * (z.dim() - 2))


def _of(other: torch.Tensor, heads: list[int], at: torch.Tensor | None, z: torch.Tensor) -> torch.Tensor:
    """Of these heads, and these tokens where there is something for each."""
    if other.dim() < z.dim():
        return other[heads].to(z.dtype)
    return (other if at is None else other[at])[:, heads].to(z.dtype)
