"""A few rows with what every attention head looks at in them, small enough for a page.

Of each token only the keys that it gives most weight to are kept, their weights in 255ths: two bytes a key,
or three in long rows, instead of a number for each pair of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.backbone.changes import Changes
from taskheads.backbone.patterns import Seen
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.training.joint.rows import TaskRows

# Bytes of all rows together; as base64 they are 1.6 MB of a page.
ROOM = 1_200_000
# Keys of a token, at least and at most; rows of a task.
_FEWEST, _MOST = 4, 16
_ROWS = 3
_STEPS = 255


@dataclass(frozen=True)
class Excerpt:
    """A row of n tokens, and which of them each looks at.

    Attributes
    ----------
    tasks: whose row it is. ids: its tokens [n].
    keys: the positions of the k keys with the highest weights, the highest first [layers, heads, n, k];
        uint8, or uint16 in rows of more than 256 tokens.
    weights: theirs in 255ths, rounded, uint8 of the same shape. 0 where a token may look at fewer, and for an
        attention head that is not there.
    """

    tasks: tuple[str, ...]
    ids: np.ndarray
    keys: np.ndarray
    weights: np.ndarray

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.weights.nbytes


def excerpts(heads: AttentionHeads, rows: Mapping[str, TaskRows], room: int = ROOM) -> list[Excerpt]:
    """At most three rows of each task, evenly spaced, as many as there is room for: each task has its share
    of the bytes, and then each token as many keys as fit, 4 to 16. A task all of whose rows are too long has
    none; rows that are alike are one. Of a task that reads two texts both are there, one after the other."""
    layers, most_heads = heads.shape
    tokens = room // (_FEWEST * 3 * layers * most_heads * max(1, len(rows)))
    found: dict[bytes, tuple[Encoded, list[str]]] = {}
    for task, mine in rows.items():
        for row in _some(mine, tokens):
            found.setdefault(row.ids.tobytes(), (row, []))[1].append(task)
    size = sum(layers * most_heads * len(row) * (2 if _short(row) else 3) for row, _ in found.values())
    most = min(_MOST, room // max(1, size))
    return [excerpt(heads, row, tuple(dict.fromkeys(tasks)), most) for row, tasks in found.values()]


@torch.inference_mode()
def excerpt(heads: AttentionHeads, row: Encoded, tasks: tuple[str, ...] = (), most: int = _MOST) -> Excerpt:
    """One row, with at most so many keys for each of its tokens: a pass that makes no whole pattern."""
    shape = (*heads.shape, len(row), min(most, len(row)))
    keys = np.zeros(shape, np.uint8 if _short(row) else np.dtype("<u2"))
    weights = np.zeros(shape, np.uint8)

    def watcher(layer: int) -> Callable[[Seen], None]:
        def watch(seen: Seen) -> None:
            here = seen.weights[0]
            top = here.topk(min(shape[-1], here.shape[-1]), -1)
            queries = slice(seen.start, seen.start + here.shape[1])
            at = layer, slice(len(here)), queries, slice(top.indices.shape[-1])
            keys[at] = top.indices.cpu().numpy()
            weights[at] = (_STEPS * top.values).round().cpu().numpy()

        return watch

    batch = RaggedBatch([row]).to(heads.backbone.device)
    heads.backbone.run(batch, (), Changes(watched={n: watcher(n) for n in range(heads.n_layers)}))
    return Excerpt(tasks, row.ids, keys, weights)


def _some(rows: TaskRows, tokens: int) -> list[Encoded]:
    """The texts of some rows, evenly spaced, that have no more tokens than this; or of the shortest row."""
    found, left = [], tokens
    for row in np.unique(np.linspace(0, len(rows) - 1, _ROWS).astype(int)).tolist():
        if rows.tokens[row] <= left:
            found.append(row)
            left -= int(rows.tokens[row])
    shortest = int(rows.tokens.argmin())
    if not found and rows.tokens[shortest] <= tokens:
        found = [shortest]
    return [request[row] for row in found for request in rows.encoded]


def _short(row: Encoded) -> bool:
    return len(row) <= 256
