"""Rows with what every attention head looks at in them, as the page's script takes them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from taskheads.attention.excerpts import Excerpt
from taskheads.backbone.tokens import Tokens

_LONGEST_TITLE = 60


def drawn_excerpts(found: Sequence[Excerpt], tokens: Tokens | None) -> list[dict[str, Any]]:
    """Of each row its title, its tokens as texts (their ids without a tokenizer), and, in base64, first the
    positions of the keys [layers, heads, n, most] (`wide`: two bytes each, the lower first) and then their
    weights in 255ths."""
    return [
        {
            "title": _title(each, tokens),
            "tokens": _texts(each.ids, tokens),
            "heads": each.keys.shape[1],
            "most": each.keys.shape[3],
            "wide": each.keys.itemsize == 2,
            "looks": b64encode(each.keys.tobytes() + each.weights.tobytes()).decode("ascii"),
        }
        for each in found
    ]


def _texts(ids: Any, tokens: Tokens | None) -> list[str]:
    return [f" {each}" for each in ids] if tokens is None else tokens.pieces(ids)


def _title(excerpt: Excerpt, tokens: Tokens | None) -> str:
    special = set() if tokens is None else set(tokens.tokenizer.all_special_ids)
    words = "".join(_texts([each for each in excerpt.ids if int(each) not in special], tokens))
    words = " ".join(words.split())
    short = words if len(words) <= _LONGEST_TITLE else f"{words[: _LONGEST_TITLE - 1]}…"
    return f"{short} ({', '.join(excerpt.tasks)})" if excerpt.tasks else short
