"""What planted attention heads compute: each as four small matrices between blocks of the residual stream.

The residual stream has 8 blocks of 32 numbers. A token is a centred one-hot vector (one-hot less its mean)
in the block `TOKEN`; whatever is written anywhere has the mean 0, so that LayerNorm and RMSNorm do the same:
they scale all blocks alike, by what no pattern below depends on. The answer is read off the block `ANSWER`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

BLOCK = 32
N_BLOCKS = 8
WIDTH = N_BLOCKS * BLOCK
TOKEN, POSITION, PREVIOUS, ANSWER, CONSTANT, SCRATCH = 0, 1, 2, 3, 4, 7

# Tokens by their job: the first opens every row, the second asks.
OPENING, ASKING = 0, 1
LETTERS, ORDINALS, SUBJECTS, ATTRIBUTES = range(2, 12), range(12, 20), range(20, 25), range(25, 30)
N_TOKENS = 30
# Positions that can be told apart, from the tables of position embeddings and from rotary ones.
LONGEST = 62
ROTARY_BASE = 1e8

# How far the right key's score stands above all others, at the least: e^-20 is nothing beside 1.
_SHARP = 12.0


@dataclass(frozen=True)
class Wiring:
    """Query, key and value of a head as maps [256, 32] of a normed residual stream, its output [32, 256]."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    output: torch.Tensor


def place(block: int, vectors: torch.Tensor) -> torch.Tensor:
    """Vectors [n, 32] as they stand in a block of the residual stream, [n, 256]."""
    whole = torch.zeros(len(vectors), WIDTH)
    whole[:, block * BLOCK : (block + 1) * BLOCK] = vectors
    return whole


def one_hots() -> torch.Tensor:
    """The centred one-hot vector of each token [30, 32]."""
    return torch.eye(BLOCK)[:N_TOKENS] - 1 / BLOCK


def constant() -> torch.Tensor:
    """A unit vector [1, 256] that every token has."""
    return place(CONSTANT, torch.tensor([[1.0, -1.0]]).repeat(1, BLOCK // 2) / BLOCK**0.5)


def positions() -> torch.Tensor:
    """A unit vector for each position [62, 32]: 31 at right angles, and then their negatives."""
    vectors = _hadamard(BLOCK)[1:] / BLOCK**0.5
    return torch.cat([vectors, -vectors])


def previous(rotary: bool) -> Wiring:
    """Looks at the token before (the first: at itself), and writes into `PREVIOUS` which one that is."""
    every = range(N_TOKENS)
    return Wiring(*_at_distance(1, rotary), *_writing(PREVIOUS, dict(zip(every, every, strict=True))))


def copy(rotary: bool) -> Wiring:
    """Looks at its own token, and answers with it."""
    return Wiring(*_at_distance(0, rotary), *_writing(ANSWER, _same()))


def successor(rotary: bool) -> Wiring:
    """Looks at its own token, and answers an ordinal with the next one; the last has none."""
    return Wiring(*_at_distance(0, rotary), *_writing(ANSWER, {t: t + 1 for t in ORDINALS[:-1]}))


def memory(rotary: bool) -> Wiring:
    """Looks at its own token, and answers a subject with its attribute, which it has by heart."""
    return Wiring(*_at_distance(0, rotary), *_writing(ANSWER, FACTS))


def induction(rotary: bool) -> Wiring:
    """Looks at what came after an earlier token like its own, and answers with it."""
    return Wiring(*_after_alike(rotary), *_writing(ANSWER, _same()))


def retrieval(rotary: bool) -> Wiring:
    """The same, but only where the token before its own asks."""
    return Wiring(*_after_alike(rotary, only_after=ASKING), *_writing(ANSWER, _same()))


def context(rotary: bool) -> Wiring:
    """The same for subjects, and twice as loud as memory."""
    return Wiring(*_after_alike(rotary, of=SUBJECTS), *_writing(ANSWER, _same(), size=2.0))


# What memory knows, in no order that a successor has.
FACTS = {subject: ATTRIBUTES[(2 * n + 1) % len(ATTRIBUTES)] for n, subject in enumerate(SUBJECTS)}
JOBS: dict[str, Callable[[bool], Wiring]] = {
    each.__name__: each for each in (previous, copy, successor, memory, induction, retrieval, context)
}
# Jobs that read the block which a head for the previous token writes.
AFTER_PREVIOUS = ("induction", "retrieval", "context")


def _same() -> dict[int, int]:
    return {token: token for token in range(N_TOKENS) if token != OPENING}


def _writing(block: int, answers: dict[int, int], size: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and output that write, for each token of `answers`, another one into a block, and for any other
    nothing at all."""
    # What a centred vector lacks of a one-hot one, every token has in `CONSTANT`.
    value = place(TOKEN, torch.eye(BLOCK)) + constant() / BLOCK
    table = torch.zeros(BLOCK, BLOCK)
    table[list(answers)] = size * one_hots()[list(answers.values())]
    return value.T, place(block, table)


def _at_distance(distance: int, rotary: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key of a head that looks so many positions back."""
    if rotary:
        fast = torch.arange(BLOCK // 2) < 4
        key = fast.float().repeat(2)
        angle = -distance * ROTARY_BASE ** (-torch.arange(0, BLOCK, 2) / BLOCK)
        first, second = key.chunk(2)
        query = torch.cat(
            [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()]
        )
        return constant().T * query * _SHARP, constant().T * key
    places = positions()[: LONGEST // 2]
    asked = places.roll(distance, 0)
    # Half-way round, where the negatives begin; then the opening token, which has none before it.
    asked[:distance] *= -1
    query = place(POSITION, places).T @ asked + place(TOKEN, torch.eye(BLOCK)[:1]).T @ (3 * places[:1])
    return query * _SHARP, place(POSITION, torch.eye(BLOCK)).T


def _after_alike(
    rotary: bool, *, of: Sequence[int] = range(1, N_TOKENS), only_after: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key of a head that looks at the token whose `PREVIOUS` is its own token, where that is one
    `of` some, and else at the opening one; `only_after` a certain token, if given."""
    codes, sink = _codes(rotary)
    known, every = constant().T, torch.eye(BLOCK)
    asking = torch.zeros_like(codes)
    asking[list(of)] = codes[list(of)]
    # Read as a one-hot vector, not as a centred one.
    query = (place(TOKEN, every[:N_TOKENS]) + constant() / BLOCK).T @ asking
    if only_after is None:
        query = query + 0.5 * known @ sink[None]
    else:
        before = place(PREVIOUS, every[only_after : only_after + 1]).T
        query = query + (4 * known - 3.5 * before) @ sink[None]
    answering = codes.clone()
    answering[OPENING] = 0
    key = place(PREVIOUS, every[:N_TOKENS]).T @ answering
    return query * _SHARP, key + place(TOKEN, every[OPENING : OPENING + 1]).T @ sink[None]


def _codes(rotary: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A unit vector for each token [30, 32], 15 at right angles and their negatives, and one at right angles
    to all [32]; where rotary positions hardly turn, if there are any."""
    codes = torch.zeros(16, BLOCK)
    slow = [*range(8, 16), *range(24, 32)] if rotary else list(range(16))
    codes[:, slow] = _hadamard(16) / 4
    return torch.cat([codes[1:], -codes[1:]]), codes[0]


def _hadamard(size: int) -> torch.Tensor:
    """Rows of 1 and -1 at right angles, the first all 1."""
    made = torch.ones(1, 1)
    while len(made) < size:
        made = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), made)
    return made
