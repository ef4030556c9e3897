"""Shapley values of attention heads: what each adds to a task's score, in whichever company."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.attention.which import AttentionHead, Which
from taskheads.backbone.changes import Changes
from taskheads.errors import ConfigError
from taskheads.methods import method

# From the changes of a pass, in which some attention heads are silent, to the task's score on its dev rows.
Value = Callable[[Changes], float]


@method("shapley_head_pruning", family="inspect", paper="arXiv:2210.05709")
@dataclass(frozen=True)
class ShapleyHeads:
    """Shapley values of attention heads for a task (or language): the mean, over orders in which heads are
    silenced one by one, of what the task's score loses with each; those below 0 interfere with the task, and
    are silenced for it alone.

    Attributes
    ----------
    scores: the values, with standard errors. bounds: how far each may be off, by the empirical Bernstein
        bound [layers, heads]. whole, empty: the score with all heads and with none of those asked about.

    Held and Yang 2023, section 3; estimated as by Ghorbani and Zou 2020. In full orders the values sum to
    `whole - empty` exactly.
    """

    scores: HeadScores
    bounds: torch.Tensor
    whole: float
    empty: float

    @classmethod
    def estimated(
        cls,
        heads: AttentionHeads,
        value: Value,
        *,
        which: Which = "all",
        orders: int = 100,
        tolerance: float = 0.0,
        settled: float = 0.0,
        spread: float = 1.0,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> ShapleyHeads:
        """Monte-Carlo over random orders of heads.

        Parameters
        ----------
        value: the task's score under some changes. which: the heads that are asked about; all others stay.
        orders: at most. tolerance: an order is broken off where the score is this near to `empty`, and the
            heads left in it add nothing; 0 goes through to the end.
        settled: once the bound of a head is below this, or its value is farther from 0 than the bound, no
            more is asked about it; 0: every head in every order.
        spread: the widest range of what one head may add, of which the bound is made: 1 for an accuracy.

        Raises ConfigError where no head is asked about.
        """
        players = heads.which(which)
        if not players:
            raise ConfigError("there is no attention head to be asked about")
        draw = np.random.default_rng(seed)
        game = _Game(players, value)
        found: list[list[float]] = [[] for _ in players]
        bounds = np.full(len(players), math.inf)
        for _ in range(orders):
            going = set(range(len(players)))
            if settled:
                means = np.array([abs(np.mean(each)) if each else 0 for each in found])
                going = set(np.flatnonzero((bounds >= settled) & (means <= bounds)).tolist())
            if not going:
                break
            for player, added in game.added(draw.permutation(len(players)).tolist(), going, tolerance):
                found[player].append(added)
            bounds = np.array([_bernstein(each, spread, confidence) for each in found])
        values, error, bound = (torch.full(heads.shape, torch.nan) for _ in range(3))
        for (layer, head), each, width in zip(players, found, bounds, strict=True):
            values[layer, head], bound[layer, head] = float(np.mean(each)), width
            error[layer, head] = np.std(each, ddof=1) / len(each) ** 0.5 if len(each) > 1 else 0.0
        backbone = heads.backbone
        about = {"measured": "Shapley", "orders": max(map(len, found)), "seed": seed, "passes": game.passes}
        scores = HeadScores(
            values, error, {"model": backbone.name, "fingerprint": backbone.fingerprint, **about}
        )
        return cls(scores, bound, game.without([]), game.without([*range(len(players))]))

    @property
    def interfering(self) -> tuple[AttentionHead, ...]:
        """The heads whose value is below 0 by more than its bound, the worst first: gate them off."""
        surely = (self.scores.values + self.bounds < 0).sum()
        reliable = HeadScores.of((self.scores.values + self.bounds).nan_to_num(torch.inf))
        return reliable.top(int(surely), smallest=True)


class _Game:
    """The score with some of the players silent, each set of them once."""

    def __init__(self, players: tuple[AttentionHead, ...], value: Value) -> None:
        self.players, self.value = players, value
        self._known: dict[bytes, float] = {}

    @property
    def passes(self) -> int:
        """How many sets were tried."""
        return len(self._known)

    def without(self, gone: list[int]) -> float:
        """With these players silent."""
        key = np.packbits(np.isin(np.arange(len(self.players)), gone)).tobytes()
        if key not in self._known:
            self._known[key] = float(self.value(scaled([self.players[player] for player in gone], 0)))
        return self._known[key]

    def added(self, order: list[int], going: set[int], tolerance: float) -> Iterator[tuple[int, float]]:
        """What each of the players `going` adds, in one order; a score that no such player is next to is
        never computed."""
        before: float | None = None
        for gone, player in enumerate(order):
            if player not in going:
                before = None
                continue
            before = self.without(order[:gone]) if before is None else before
            if tolerance and abs(before - self.without(order)) <= tolerance:
                yield from ((other, 0.0) for other in order[gone:] if other in going)
                return
            after = self.without(order[: gone + 1])
            yield player, before - after
            before = after


def _bernstein(values: list[float], spread: float, confidence: float) -> float:
    """Audibert et al. 2009: the mean of n values in a range is this far from what it should be at most, with
    this probability."""
    if len(values) < 2:
        return math.inf
    more = math.log(3 / (1 - confidence))
    return float(np.std(values) * (2 * more / len(values)) ** 0.5 + 3 * spread * more / len(values))
