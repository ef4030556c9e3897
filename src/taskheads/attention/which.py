"""Which attention heads: (layer, head), and how one says so."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import torch

from taskheads.errors import ConfigError

_ONE = re.compile(r"(\*|\d+)\.(\*|\d+)(?:-(\d+))?")


class AttentionHead(NamedTuple):
    """Head `head` of layer `layer`, both counted from 0; written "3.7"."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}"


# "3.7 4.*", pairs, or a mask [layers, heads].
Which = str | Iterable[tuple[int, int]] | torch.Tensor


def chosen_heads(which: Which, counts: tuple[int, ...]) -> tuple[AttentionHead, ...]:
    """The attention heads that are meant, by layer and head, each once.

    Parameters
    ----------
    which: as text, heads separated by spaces or commas: "3.7", "3.*" (all of layer 3), "*.0", "3.2-5",
        "all"; or pairs (layer, head); or a mask bool [layers, heads].
    counts: how many heads each layer has.

    Raises ConfigError for what is not such a text, and for a head that is not there.
    """
    if isinstance(which, torch.Tensor):
        most = (len(counts), max(counts))
        if which.dtype != torch.bool or which.shape != most:
            raise ConfigError(f"a mask of attention heads is bool {list(most)}, not {list(which.shape)}")
        pairs = [tuple(pair) for pair in which.nonzero().tolist()]
    elif isinstance(which, str):
        words = which.replace(",", " ").split()
        pairs = [pair for word in words for pair in _pairs(word, counts)]
    else:
        pairs = [(int(layer), int(head)) for layer, head in which]
    for layer, head in pairs:
        if not (0 <= layer < len(counts) and 0 <= head < counts[layer]):
            raise ConfigError(
                f"there is no attention head {layer}.{head}: layers are 0 to {len(counts) - 1}, "
                f"heads 0 to {max(counts) - 1}"
            )
    return tuple(sorted({AttentionHead(*pair) for pair in pairs}))


def by_layer(heads: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    """The numbers of the heads in each layer that has some, in the order given."""
    found: dict[int, list[int]] = {}
    for layer, head in heads:
        found.setdefault(layer, []).append(head)
    return found


def _pairs(word: str, counts: tuple[int, ...]) -> list[tuple[int, int]]:
    match = _ONE.fullmatch("*.*" if word == "all" else word)
    if match is None:
        raise ConfigError(f"{word!r} names no attention head: write LAYER.HEAD, as in 3.7, 3.* or 3.0-5")
    if match[1] != "*":
        layers = [int(match[1])]
    else:  # of those layers that have it; of the first one, to be rejected, where none has
        wanted = 0 if match[2] == "*" else int(match[2])
        layers = [layer for layer, count in enumerate(counts) if wanted < count] or [0]
    if match[2] == "*":
        return [(layer, head) for layer in layers for head in range(dict(enumerate(counts)).get(layer, 1))]
    return [(layer, head) for layer in layers for head in range(int(match[2]), int(match[3] or match[2]) + 1)]
