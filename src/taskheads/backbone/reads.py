"""What a head reads: a site of the backbone, and how the tokens there become one vector a row or a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import BackboneError

Pooling = Literal["mean", "first", "last", "max", "words"]


@dataclass(frozen=True, order=True)
class Read:
    """One vector for each row (or, under `words`, for each word) of the tensors at a site.

    Poolings: `mean` and `max` over all tokens of the row, special tokens included; `first` (an encoder's
    [CLS]) and `last` (a decoder's summary) take one token; `words` takes the first token of every word.
    Written as "layers.3.output:mean".
    """

    site: str
    pooling: Pooling

    def __str__(self) -> str:
        return f"{self.site}:{self.pooling}"

    @classmethod
    def parse(cls, text: str) -> Read:
        site, _, pooling = text.rpartition(":")
        if not site or pooling not in get_args(Pooling):
            raise BackboneError(
                f"{text!r} is not a read; write SITE:POOLING, with {', '.join(get_args(Pooling))}"
            )
        return cls(site, pooling)  # type: ignore[arg-type]

    @property
    def of_words(self) -> bool:
        return self.pooling == "words"


def pool(values: torch.Tensor, batch: RaggedBatch, pooling: Pooling) -> torch.Tensor:
    """[N, ...] over tokens → [rows, width] over rows or, under `words`, [words, width] over all rows' words.

    Words without a token of their own (the tokenizer dropped them, or the row was cut) and rows without a
    token get zeros.
    """
    values = values.flatten(1)
    if pooling == "words":
        return _taken(values, *batch.word_tokens)
    if pooling == "first":
        return _taken(values, batch.starts, batch.counts > 0)
    if pooling == "last":
        return _taken(values, batch.starts + batch.counts - 1, batch.counts > 0)
    # Over blocks of equal length: a plain reduction, several times faster than scattering token by token.
    # A mean of numbers of eight binary digits has more of them.
    dtype = torch.promote_types(values.dtype, torch.float32)
    arranged = batch.arranged()
    parts = [values.new_zeros(batch.lengths.count(0), values.shape[1])]
    for group, tokens in zip(arranged.groups, arranged.split(values), strict=True):
        block = tokens.view(group.count, group.length, -1)
        parts.append(block.mean(1, dtype=dtype) if pooling == "mean" else block.amax(1))
    return torch.cat(parts)[batch.place_by_length]


def _taken(values: torch.Tensor, at: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """values[at], with zeros where nothing is present (whatever `at` says there)."""
    if bool(present.all()):
        return values[at]
    taken = values.new_zeros(len(at), values.shape[1])
    taken[present] = values[at[present]]
    return taken
