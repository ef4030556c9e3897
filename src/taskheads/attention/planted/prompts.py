"""Rows whose right answer is known, for models with planted attention heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from taskheads.attention.planted.wiring import (
    ASKING,
    ATTRIBUTES,
    FACTS,
    JOBS,
    LETTERS,
    OPENING,
    ORDINALS,
    SUBJECTS,
)
from taskheads.backbone.ragged import Encoded
from taskheads.errors import ConfigError


@dataclass(frozen=True)
class Prompts:
    """Rows, and what stands in them.

    Attributes
    ----------
    rows: token ids, each from an opening token on. The answer is asked at a row's last token.
    answers: the right token of each row [rows].
    others: a wrong one: of `context`, what memory would say; else another of the same kind [rows].
    at: the position in each row of the token that the planted head looks at from the last one [rows].
    """

    rows: list[Encoded]
    answers: np.ndarray
    others: np.ndarray
    at: np.ndarray


def prompts(job: str, count: int, *, seed: int = 0) -> Prompts:
    """Rows of 6 to 13 tokens which the head with this job answers, each of another length and content.

    Raises ConfigError for an unknown job.
    """
    if job not in JOBS:
        raise ConfigError(f"no head is planted for {job!r}: there are {', '.join(JOBS)}")
    draw = np.random.default_rng(seed)
    made = [_ROWS[job](draw, int(draw.integers(6, 11))) for _ in range(count)]
    rows, answers, others, at = zip(*made, strict=True)
    return Prompts(
        [Encoded(np.asarray(row, np.int64)) for row in rows],
        np.array(answers),
        np.array(others),
        np.array(at),
    )


_Row = tuple[list[int], int, int, int]


def _letters(draw: np.random.Generator, count: int) -> list[int]:
    return [int(token) for token in draw.permutation(LETTERS)[:count]]


def _other(draw: np.random.Generator, kind: range, than: int) -> int:
    return int(draw.choice([token for token in kind if token != than]))


def _induction(draw: np.random.Generator, size: int) -> _Row:
    """A B C D ... A B C: D comes next."""
    some, again = _letters(draw, 6), size // 2
    row = [OPENING, *some, *some[:again]]
    return row, some[again], _other(draw, LETTERS, some[again]), again + 1


def _retrieval(draw: np.random.Generator, size: int) -> _Row:
    """Keys and values in turn, and then a key is asked."""
    letters = _letters(draw, 2 * (size // 2))
    asked = 2 * int(draw.integers(0, len(letters) // 2))
    row = [OPENING, *letters, ASKING, letters[asked]]
    return row, letters[asked + 1], _other(draw, LETTERS, letters[asked + 1]), asked + 2


def _context(draw: np.random.Generator, size: int) -> _Row:
    """A subject with an attribute that is not its own, letters, and the subject again."""
    subject = int(draw.choice(SUBJECTS))
    told = _other(draw, ATTRIBUTES, FACTS[subject])
    before = _letters(draw, int(draw.integers(1, 4)))
    row = [OPENING, *before, subject, told, *_letters(draw, size - 4 - len(before)), subject]
    return row, told, FACTS[subject], len(before) + 2


def _at_last(kind: range, answer: Callable[[int], int], answers: range) -> Callable[..., _Row]:
    """Letters, and a token of a kind at last."""

    def row(draw: np.random.Generator, size: int) -> _Row:
        last = int(draw.choice(kind))
        row = [OPENING, *_letters(draw, size), last]
        return row, answer(last), _other(draw, answers, answer(last)), len(row) - 1

    return row


def _previous(draw: np.random.Generator, size: int) -> _Row:
    """Letters; the head looks at the last but one, and nothing is answered: that token counts as right."""
    some = _letters(draw, size)
    return [OPENING, *some], some[-2], some[-1], size - 1


_ROWS: dict[str, Callable[..., _Row]] = {
    "previous": _previous,
    "induction": _induction,
    "retrieval": _retrieval,
    "context": _context,
    "copy": _at_last(range(ORDINALS[0], ATTRIBUTES[-1] + 1), lambda token: token, ATTRIBUTES),
    "successor": _at_last(ORDINALS[:-1], lambda token: token + 1, ORDINALS),
    "memory": _at_last(SUBJECTS, FACTS.__getitem__, ATTRIBUTES),
}
