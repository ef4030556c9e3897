"""Token ids are the model's own; every word is found at its first token, in long rows too."""

from __future__ import annotations

import time

import numpy as np
import pytest
from tokenizers import decoders

from taskheads.backbone.ragged import Encoded
from taskheads.backbone.tokens import Tokens
from taskheads.errors import BackboneError
from tests.backbone.tokenizers import CORPUS, KINDS, wordpiece

ROWS = [
    CORPUS[0].split(),
    CORPUS[1].split(),
    ["one"],
    [],
    ["", "lazy", "", "", "dog", ""],
    ["\x00", "fox", "\u200b", "\x07", "café", " "],
    ["a b", " over", "the ", "x\u0301y", "日本", "👍🏽", "don't"],
]


def brute_force(tokens: Tokens, row: list[str]) -> list[int]:
    """For every word, the first token whose characters include one of the word's, by looking at each."""
    text, spans = "", []
    for word in row:
        if not word.strip():
            spans.append(range(0))
            continue
        text += " " if text else ""
        spans.append(range(len(text), len(text) + len(word)))
        text += word
    offsets = tokens.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return [
        next((t for t, (start, end) in enumerate(offsets) if set(range(start, end)) & set(span)), -1)
        for span in spans
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_found_at_their_first_token(kind: str) -> None:
    tokens = Tokens(KINDS[kind](), 512)
    for row, encoded in zip(ROWS, tokens.words(ROWS), strict=True):
        text = " ".join(word for word in row if word.strip())
        assert encoded.ids.tolist() == tokens.tokenizer(text)["input_ids"]
        assert encoded.words is not None
        assert encoded.words.tolist() == brute_force(tokens, row), row
    found = tokens.words([CORPUS[0].split()])[0].words
    assert found is not None
    assert (found >= 0).all()


def test_what_a_tokenizer_drops_has_no_token_and_its_neighbours_keep_theirs() -> None:
    row = ["\x00", "fox", "", "dog"]
    words = Tokens(KINDS["wordpiece"](), 64).words([row])[0].words
    assert words is not None
    assert (words >= 0).tolist() == [False, True, False, True]
    # Byte-level tokenizers drop nothing but what is empty.
    words = Tokens(KINDS["byte_level"](), 64).words([row])[0].words
    assert words is not None
    assert (words >= 0).tolist() == [True, True, False, True]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [5, 6, 13, 400])
def test_texts_and_pairs_are_cut_as_the_tokenizer_cuts_them(kind: str, limit: int) -> None:
    tokens = Tokens(KINDS[kind](), limit)
    texts = [CORPUS[0], "", "fox", CORPUS[1] * 2, "the lazy dog"]
    how = {"truncation": "longest_first", "max_length": limit}
    for text, mine in zip(texts, tokens.texts(texts), strict=True):
        assert same(mine, tokens.tokenizer([text], **how))
    pairs = [(a, b) for a in texts for b in texts]
    for (a, b), mine in zip(pairs, tokens.pairs(*zip(*pairs, strict=True)), strict=True):
        assert same(mine, tokens.tokenizer([a], [b], **how)), (a, b)


def same(mine: Encoded, theirs: dict) -> bool:
    segments = np.zeros(len(mine)) if mine.segments is None else mine.segments
    types = theirs.get("token_type_ids", [segments.tolist()])[0]
    return mine.ids.tolist() == theirs["input_ids"][0] and segments.tolist() == types


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [4, 7, 16, 33])
def test_windows_cover_a_long_row_with_every_word_once(kind: str, limit: int) -> None:
    tokenizer = KINDS[kind]()  # training is not deterministic: one tokenizer for both
    whole, tokens = Tokens(tokenizer, 10_000), Tokens(tokenizer, limit)
    for row in [*ROWS, CORPUS[0].split() * 4, ["", *CORPUS[1].split() * 3, "\x00"], ["x" * 200, "fox"]]:
        full = whole.words([row])[0]
        windows = tokens.windows([row])[0]
        assert full.words is not None
        assert all(len(window) <= limit for window in windows)
        found = [window.ids[at] if at >= 0 else -1 for window in windows for at in np.asarray(window.words)]
        assert found == [full.ids[at] if at >= 0 else -1 for at in full.words]
        if len(full) <= limit:
            assert len(windows) == 1
            continue
        assert windows[0].ids.tolist() == tokens.words([row])[0].ids.tolist()
        # No word stands at a cut when its neighbour window could hold it farther inside.
        shared = (limit - (len(full) - len(inside(whole, row)))) // 4
        for number, window in enumerate(windows):
            at = np.asarray([a for a in np.asarray(window.words) if a >= 0])
            first, last = text_span(whole, row, len(window))
            if len(at) and number > 0:
                assert at.min() - first >= shared // 2
            if len(at) and number < len(windows) - 1:
                assert last - at.max() >= shared - shared // 2


def inside(tokens: Tokens, row: list[str]) -> np.ndarray:
    full = tokens.tokenizer.backend_tokenizer.encode(" ".join(w for w in row if w.strip()))
    return np.flatnonzero([s is not None for s in full.sequence_ids])


def text_span(tokens: Tokens, row: list[str], length: int) -> tuple[int, int]:
    """First and last position of a window of `length` that holds a token of the text."""
    at = inside(tokens, row)
    total = len(tokens.words([row])[0])
    return int(at[0]), length - 1 - (total - 1 - int(at[-1]))


@pytest.mark.parametrize("kind", KINDS)
def test_halves_of_surrogate_pairs_count_as_the_replacement_character(kind: str) -> None:
    tokens = Tokens(KINDS[kind](), 64)
    broken, mended = tokens.texts(["fox \ud83d dog", "fox \ufffd dog"])
    assert broken.ids.tolist() == mended.ids.tolist()
    assert tokens.pairs(["\ud83d"], ["a"])[0].ids.tolist() == tokens.pairs(["\ufffd"], ["a"])[0].ids.tolist()
    assert len(tokens.words([["fox", "\udead"]])[0]) > 0


def test_tokens_read_as_they_stand_after_another() -> None:
    text = "unbelievably quick, don't"
    tokens = Tokens(KINDS["byte_level"](), 64)
    pieces = tokens.pieces(tokens.texts([f" {text}"])[0].ids)
    assert len(pieces) > 3
    assert "".join(pieces) == f" {text}"
    whole = wordpiece()
    whole.backend_tokenizer.decoder = decoders.WordPiece()
    tokens = Tokens(whole, 64)
    pieces = tokens.pieces(tokens.texts(["quick foxes"])[0].ids)
    assert "".join(pieces) == " <s> quick foxes </s>"
    assert [each for each in pieces if each.startswith(" ")][1].strip()[0] == "q"


def test_what_is_no_text_is_said() -> None:
    with pytest.raises(BackboneError, match="a text was expected, not None"):
        Tokens(KINDS["wordpiece"](), 64).texts(["fox", None])  # type: ignore[list-item]


def test_the_tokenizer_that_was_given_is_left_as_it_was() -> None:
    tokenizer = KINDS["wordpiece"]()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=3)
    tokens = Tokens(tokenizer, 20)
    state = tokens.state
    assert len(tokens.texts([CORPUS[0]])[0]) == 20
    tokenizer(["fox"], padding="max_length", max_length=9, truncation=True)
    assert len(tokens.texts(["fox"])[0]) < 9
    assert tokens.state == state
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 9


@pytest.mark.parametrize("form", ["texts", "pairs", "words"])
def test_a_text_of_a_million_characters_is_cut_without_harm(form: str) -> None:
    tokens = Tokens(KINDS["wordpiece"](), 64)
    text = "the lazy dog " * 77_000
    started = time.process_time()
    if form == "texts":
        assert len(tokens.texts([text])[0]) == 64
    elif form == "pairs":
        assert len(tokens.pairs([text], [text])[0]) == 64
    else:
        assert len(tokens.words([text.split()])[0]) == 64
    assert time.process_time() - started < 20
