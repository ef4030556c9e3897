"""Which rows every step of training takes: a fixed number of tokens, their rows divided among the tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

Drawn = dict[str, np.ndarray]


class Stream:
    """An endless stream of steps, each {task: its rows}, of about `budget` tokens in all.

    Each task is credited at every step the tokens that its share of the rows has in the mean, and pays for
    those of the rows that it puts in; so every step costs about the same, and over many steps the shares are
    exact. Each task's rows come in an order shuffled anew for every pass over them.

    Parameters
    ----------
    tokens: of each task, the tokens of each of its rows.
    budget: tokens a step.
    shares: of the rows, by task; `shares` may be changed between steps. Of rows and not of tokens, or a task
        with long rows would see fewer of them than another with as many short ones.
    seed: with the task's name and the number of the pass, decides each order.
    """

    def __init__(
        self, tokens: Mapping[str, np.ndarray], budget: int, shares: Mapping[str, float], seed: int
    ) -> None:
        self.tokens, self.budget, self.seed = dict(tokens), budget, seed
        self.shares = dict(shares)
        self._length = {name: max(1.0, float(each.mean())) for name, each in self.tokens.items()}
        self._credit = dict.fromkeys(self.tokens, 0.0)
        self._at = dict.fromkeys(self.tokens, (0, 0))
        self._orders: dict[str, tuple[int, np.ndarray]] = {}

    @property
    def rows_a_step(self) -> dict[str, float]:
        """How many rows each task has in a step, in the mean."""
        tokens_a_row = sum(share * self._length[name] for name, share in self.shares.items())
        return {name: share * self.budget / tokens_a_row for name, share in self.shares.items()}

    def draw(self) -> Drawn:
        """The rows of the next step, none empty and at least one."""
        drawn: Drawn = {}
        while not drawn:
            for name, count in self.rows_a_step.items():
                self._credit[name] += count * self._length[name]
                if rows := self._taken(name):
                    drawn[name] = np.asarray(rows, np.int64)
        return drawn

    def state(self) -> dict[str, Any]:
        """JSON-able; `restore` takes it."""
        at = {name: list(place) for name, place in self._at.items()}
        return {"credit": dict(self._credit), "at": at, "shares": dict(self.shares)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._credit = dict(state["credit"])
        self._at = {name: (place[0], place[1]) for name, place in state["at"].items()}
        self.shares = dict(state["shares"])

    def _taken(self, name: str) -> list[int]:
        rows: list[int] = []
        # No row stands twice in a step, or a small task could fill one with copies of itself.
        while self._credit[name] > 0 and len(rows) < len(self.tokens[name]):
            number, at = self._at[name]
            row = int(self._order(name, number)[at])
            rows.append(row)
            self._credit[name] -= float(self.tokens[name][row])
            self._at[name] = (number, at + 1) if at + 1 < len(self.tokens[name]) else (number + 1, 0)
        if len(rows) == len(self.tokens[name]):
            self._credit[name] = min(self._credit[name], 0.0)
        # Where one pass over the rows ends and the next begins in a step, the two may hold the same row.
        return list(dict.fromkeys(rows))

    def _order(self, name: str, number: int) -> np.ndarray:
        if self._orders.get(name, (-1,))[0] != number:
            key = hashlib.blake2b(f"{self.seed} {name} {number}".encode(), digest_size=8).digest()
            rng = np.random.default_rng(int.from_bytes(key, "little"))
            self._orders[name] = number, rng.permutation(len(self.tokens[name]))
        return self._orders[name][1]
