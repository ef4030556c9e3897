"""The features of a whole suite on a frozen backbone: each text goes through the backbone once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cache import FeatureCache
from taskheads.backbone.features import Words, extract
from taskheads.backbone.reads import Read
from taskheads.heads import Head, Request
from taskheads.heads.head import Form
from taskheads.tasks.task import Examples
from taskheads.training.solver import Basis

Progress = Callable[[str, int, int], None]

# A basis holds the features themselves; the latest ones are kept, up to this size.
_BASES_BYTES = 1 << 30


class FrozenFeatures:
    """What the heads of a suite may read, for every row of every task.

    Parameters
    ----------
    needs: (request, examples) of every task and split.
    reads: for a form of input, the reads to take. All tasks' texts go through the backbone together, each
        distinct one once, whatever number of tasks ask about it.
    cache: the feature cache, or None.
    progress: called with ("reading", tokens done, tokens in all).
    """

    def __init__(
        self,
        backbone: Backbone,
        needs: Iterable[tuple[Request, Examples]],
        reads: Callable[[Form], Sequence[Read]],
        *,
        cache: FeatureCache | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._rows: dict[Form, dict] = {}
        self._found: dict[Form, dict[Read, torch.Tensor | Words]] = {}
        self._bases: dict[str, Basis] = {}
        for request, examples in needs:
            number = self._rows.setdefault(request.form, {})
            for item in items_of(request, examples):
                number.setdefault(_key(item), len(number))
        for form, number in self._rows.items():
            self._found[form] = extract(
                backbone,
                form,
                list(number),
                reads(form),
                cache=cache,
                progress=progress and (lambda done, total: progress("reading", done, total)),
            )

    def of(self, head: Head, examples: Examples) -> tuple[torch.Tensor, list[int] | None]:
        """What `head` gathers for these rows, and the words of each row where features are of words."""
        found: list[dict[Read, torch.Tensor]] = []
        lengths: list[int] | None = None
        for request in head.requests:
            rows = self._at(request, examples)
            taken: dict[Read, torch.Tensor] = {}
            for read in head.reads:
                whole = self._found[request.form][read]
                if isinstance(whole, Words):
                    taken[read], lengths = _words_at(whole, rows)
                else:
                    taken[read] = whole[torch.from_numpy(rows)]
            found.append(taken)
        return head.gather(found), lengths

    def read(self, request: Request, read: Read, examples: Examples) -> torch.Tensor:
        """One pooled read of these rows, [rows, width]."""
        whole = self._found[request.form][read]
        assert isinstance(whole, torch.Tensor)
        return whole[torch.from_numpy(self._at(request, examples))]

    def basis(self, head: Head, examples: Examples, features: Callable[[], torch.Tensor]) -> Basis:
        """The basis of `features()`, shared by heads that gather the same from the same rows."""
        digest = hashlib.blake2b(repr((type(head).gather.__qualname__, head.reads)).encode())
        for request in head.requests:
            digest.update(request.form.encode() + self._at(request, examples).tobytes())
        key = digest.hexdigest()
        if key not in self._bases:
            basis = Basis(features())
            while self._bases and sum(b.nbytes for b in self._bases.values()) + basis.nbytes > _BASES_BYTES:
                self._bases.pop(next(iter(self._bases)))
            self._bases[key] = basis
        return self._bases[key]

    def _at(self, request: Request, examples: Examples) -> np.ndarray:
        number = self._rows[request.form]
        return np.asarray([number[_key(item)] for item in items_of(request, examples)], np.int64)


def items_of(request: Request, examples: Examples) -> list:
    """The inputs of the rows, in the request's form."""
    columns = [examples.inputs[at] for at in request.at]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _key(item: str | tuple | list) -> str | tuple:
    return tuple(item) if isinstance(item, list) else item


def _words_at(words: Words, rows: np.ndarray) -> tuple[torch.Tensor, list[int]]:
    lengths = np.asarray(words.lengths, np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    taken = lengths[rows]
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    return words.values[torch.from_numpy(np.repeat(starts[rows], taken) + within)], taken.tolist()
