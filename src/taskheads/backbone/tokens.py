"""From texts, pairs of texts and rows of words to token ids, by the backbone's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from taskheads.backbone.ragged import Encoded
from taskheads.errors import BackboneError


class Tokens:
    """The backbone's tokenizer, truncating to `limit` tokens a row.

    Parameters
    ----------
    tokenizer: a fast Hugging Face tokenizer (one with a `tokenizers` backend).
    limit: tokens a row at most, special tokens included.

    Raises BackboneError for a slow tokenizer, whose word alignment is not known.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise BackboneError(
                f"{type(tokenizer).__name__} is a slow tokenizer; taskheads needs the fast one (tokenizer.json)"
            )
        self.tokenizer = tokenizer
        self.limit = limit

    def texts(self, texts: Sequence[str]) -> list[Encoded]:
        """Each text with the model's special tokens, cut on the right to the limit."""
        return self._encode(list(texts))

    def pairs(self, first: Sequence[str], second: Sequence[str]) -> list[Encoded]:
        """Both texts in one row as the model joins them; the longer one is cut where they exceed the limit."""
        return self._encode(list(first), list(second))

    def words(self, rows: Sequence[Sequence[str]]) -> list[Encoded]:
        """Rows given as words; `Encoded.words` says at which token each word starts.

        Words beyond the limit have no token (-1), as have words which the tokenizer drops.
        """
        encodings = self._batch([list(row) for row in rows], None, is_split_into_words=True)
        return [
            Encoded(*_ids_and_segments(encoding), _first_tokens(encoding.word_ids, len(row)))
            for encoding, row in zip(encodings, rows, strict=True)
        ]

    def _encode(self, first: list[str], second: list[str] | None = None) -> list[Encoded]:
        return [Encoded(*_ids_and_segments(each)) for each in self._batch(first, second)]

    def _batch(self, first: list, second: list | None, **how: Any) -> list:
        encoded = self.tokenizer(
            first,
            second,
            truncation="longest_first",
            max_length=self.limit,
            padding=False,
            verbose=False,
            return_attention_mask=False,
            **how,
        )
        return encoded.encodings


def _ids_and_segments(encoding: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(encoding.ids, np.int64), np.asarray(encoding.type_ids, np.int64)


def _first_tokens(word_of_token: Sequence[int | None], n_words: int) -> np.ndarray:
    words = np.asarray([-1 if word is None else word for word in word_of_token], np.int64)
    first = np.full(n_words, -1, np.int64)
    inside = np.flatnonzero(words >= 0)
    # Written from the last token to the first, so that the first token of a word is what stays.
    first[words[inside[::-1]]] = inside[::-1]
    return first
