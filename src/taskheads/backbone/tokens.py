"""From texts, pairs of texts and rows of words to token ids, by the backbone's own tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from taskheads.backbone.ragged import Encoded
from taskheads.errors import BackboneError

_AT_ONCE = 8192
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokens:
    """The backbone's tokenizer, cutting rows at `limit` tokens.

    Halves of surrogate pairs, which broken JSON escapes leave in texts, count as U+FFFD.

    Parameters
    ----------
    tokenizer: a fast Hugging Face tokenizer (one with a `tokenizers` backend). A copy of its backend is
        used, so that neither side's truncation and padding settings touch the other's.
    limit: tokens a row at most, special tokens included.

    Raises BackboneError for a slow tokenizer, whose word alignment is not known.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            kind = type(tokenizer).__name__
            raise BackboneError(f"{kind} is a slow tokenizer; taskheads needs the fast one (tokenizer.json)")
        self.tokenizer = tokenizer
        self.limit = limit
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()

    @property
    def state(self) -> str:
        """Everything that token ids depend on, as text."""
        return f"{self._backend.to_str()} {self.limit}"

    def texts(self, texts: Sequence[str]) -> list[Encoded]:
        """Each text with the model's special tokens, cut on the right to the limit."""
        return [self._first_window(encoding) for encoding in self._encode(texts)]

    def pairs(self, first: Sequence[str], second: Sequence[str]) -> list[Encoded]:
        """Both texts in one row as the model joins them; the longer is cut where they exceed the limit."""
        both = list(zip(first, second, strict=True))
        return [self._cut_pair(encoding) for encoding in self._encode(both)]

    def words(self, rows: Sequence[Sequence[str]]) -> list[Encoded]:
        """Rows given as words; `Encoded.words` says at which token each word starts.

        A row is its words joined by spaces. Words beyond the limit have no token (-1), as have words which
        the tokenizer drops (empty ones, and what its normaliser removes).
        """
        found = []
        for encoding, starts in self._encode_words(rows):
            row = self._first_window(encoding)
            found.append(Encoded(row.ids, row.segments, np.where(starts < len(row), starts, -1)))
        return found

    def windows(self, rows: Sequence[Sequence[str]]) -> list[list[Encoded]]:
        """Rows given as words, each in as many overlapping windows as it needs; most need one.

        Windows share a quarter of their tokens. Each holds some of the row's words, in order and without
        gaps: those whose first token is in no other window, or stands farther from the cut in this one.
        So the `Encoded.words` of a row's windows, one after the other, are all words of the row.
        """
        return [list(self._split(encoding, starts)) for encoding, starts in self._encode_words(rows)]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token as it reads after another one: " fox", "es", " [SEP]". Part of a character is U+FFFD."""
        first = self._backend.encode("a", add_special_tokens=False).ids
        before, *texts = self._backend.decode_batch(
            [first, *([*first, int(token)] for token in ids)], skip_special_tokens=False
        )
        return [text.removeprefix(before) for text in texts]

    def _encode(self, items: Sequence[Any], *, offsets: bool = False) -> Iterator[Encoding]:
        # An encoding is many times the size of its ids, so there are never many of them at once.
        for start in range(0, len(items), _AT_ONCE):
            some = list(items[start : start + _AT_ONCE])
            encode = self._backend.encode_batch if offsets else self._backend.encode_batch_fast
            try:
                yield from encode(some)
            except TypeError:
                yield from encode([_mended(item) for item in some])

    def _encode_words(self, rows: Sequence[Sequence[str]]) -> Iterator[tuple[Encoding, np.ndarray]]:
        """The encoding of each row, uncut, and the index of each word's first token, or -1."""
        spoken = [[(n, word) for n, word in enumerate(row) if word and not word.isspace()] for row in rows]
        joined = [" ".join(word for _, word in row) for row in spoken]
        for row, words, encoding in zip(rows, spoken, self._encode(joined, offsets=True), strict=True):
            first = np.full(len(row), -1, np.int64)
            if words:
                numbers = [n for n, _ in words]
                first[numbers] = _first_tokens(encoding, np.asarray([len(word) for _, word in words]))
            yield encoding, first

    def _first_window(self, encoding: Encoding) -> Encoded:
        if len(encoding) <= self.limit:
            return _encoded(encoding)
        start, stop = _inside(encoding)
        room = max(1, self.limit - start - (len(encoding) - stop))
        return _encoded(encoding, np.r_[: start + room, stop : len(encoding)])

    def _split(self, encoding: Encoding, first: np.ndarray) -> Iterator[Encoded]:
        if len(encoding) <= self.limit:
            row = _encoded(encoding)
            yield Encoded(row.ids, row.segments, first)
            return
        start, stop = _inside(encoding)
        room = max(1, self.limit - start - (len(encoding) - stop))
        shared = room // 4
        step = room - shared
        count = 1 + max(0, -(-(stop - start - room) // step))
        # Words without a token go where the word before them is.
        place = np.maximum.accumulate(np.where(first < 0, 0, first - start))
        window_of_word = np.clip((place - shared // 2) // step, 0, count - 1)
        for number in range(count):
            begin = start + number * step
            row = _encoded(encoding, np.r_[:start, begin : min(begin + room, stop), stop : len(encoding)])
            mine = first[
                np.searchsorted(window_of_word, number) : np.searchsorted(window_of_word, number + 1)
            ]
            yield Encoded(row.ids, row.segments, np.where(mine < 0, -1, mine - number * step))

    def _cut_pair(self, encoding: Encoding) -> Encoded:
        if len(encoding) <= self.limit:
            return _encoded(encoding)
        side = np.asarray([-1 if s is None else s for s in encoding.sequence_ids])
        lengths = [int((side == 0).sum()), int((side == 1).sum())]
        room = max(0, self.limit - (len(side) - sum(lengths)))
        short = int(lengths[0] > lengths[1])
        keep = [room, room]
        keep[short] = min(lengths[short], room // 2)
        keep[1 - short] = room - keep[short]
        kept = side < 0
        for which in (0, 1):
            kept[np.flatnonzero(side == which)[: keep[which]]] = True
        return _encoded(encoding, np.flatnonzero(kept))


def _encoded(encoding: Encoding, kept: np.ndarray | slice = slice(None)) -> Encoded:
    segments = np.asarray(encoding.type_ids, np.int32)[kept]
    return Encoded(np.asarray(encoding.ids, np.int32)[kept], segments if segments.any() else None)


def _inside(encoding: Encoding) -> tuple[int, int]:
    """Where the text stands between the special tokens that open and close a row."""
    of_text = [at for at, sequence in enumerate(encoding.sequence_ids) if sequence is not None]
    return (of_text[0], of_text[-1] + 1) if of_text else (len(encoding), len(encoding))


def _first_tokens(encoding: Encoding, sizes: np.ndarray) -> np.ndarray:
    """The first token that touches each of the words of `sizes` characters, joined by spaces; or -1."""
    ends = np.cumsum(sizes + 1) - 1
    starts = ends - sizes
    spans = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
    solid = np.flatnonzero(spans[:, 1] > spans[:, 0])
    if not len(solid):
        return np.full(len(sizes), -1, np.int64)
    reached = np.maximum.accumulate(spans[solid, 1])
    at = np.searchsorted(reached, starts, side="right")
    found = solid[np.minimum(at, len(solid) - 1)]
    return np.where((at < len(solid)) & (spans[found, 0] < ends), found, -1)


def _mended(item: Any) -> Any:
    if isinstance(item, tuple):
        return tuple(_mended(part) for part in item)
    if not isinstance(item, str):
        raise BackboneError(f"a text was expected, not {item!r:.60}")
    return _LONE_SURROGATE.sub("\ufffd", item)
