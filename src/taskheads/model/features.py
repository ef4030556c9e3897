"""The features of a whole suite on a frozen backbone: each text goes through the backbone once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cache import FeatureCache
from taskheads.backbone.features import Words, extract
from taskheads.backbone.reads import Read
from taskheads.heads import Head, Request
from taskheads.heads.head import Form
from taskheads.tasks.task import Examples

Progress = Callable[[str, int, int], None]
Sized = TypeVar("Sized", bound=tuple)

# What was gathered, and bases, are kept for the next task on the same rows: the latest ones, up to this size.
_KEPT_BYTES = 1 << 30


class Gathered(NamedTuple):
    """The features of some rows, [n, d], and the words of each row where n counts words."""

    features: torch.Tensor
    lengths: list[int] | None


class FrozenFeatures:
    """What the heads of a suite may read, for every row of every task.

    Parameters
    ----------
    needs: (request, examples) of every task and split.
    reads: for a form of input, the reads to take. All tasks' texts go through the backbone together, each
        distinct one once, whatever number of tasks ask about it.
    cache: the feature cache, or None.
    progress: called with ("reading", tokens done, tokens in all).

    Attributes
    ----------
    dropped: whether anything that `once` kept had to go, to be made again when it is asked for again.
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
        self.dropped = False
        self._kept: dict[tuple, Any] = {}
        self._guard = threading.Lock()
        self._making: dict[tuple, threading.Lock] = {}
        self._places: dict[tuple[Request, int], tuple[Examples, np.ndarray, bytes]] = {}
        for request, examples in needs:
            number = self._rows.setdefault(request.form, {})
            for key in _keys(items_of(request, examples)):
                number.setdefault(key, len(number))
        for form, number in self._rows.items():
            self._found[form] = extract(
                backbone,
                form,
                list(number),
                reads(form),
                cache=cache,
                progress=progress and (lambda done, total: progress("reading", done, total)),
            )

    def of(self, head: Head, examples: Examples) -> Gathered:
        """What `head` gathers for these rows; shared by heads that gather the same, so not to be changed."""
        return self.once("gathered", head, examples, lambda: self.gather(head, examples))

    def gather(self, head: Head, examples: Examples) -> Gathered:
        """As `of`, made anew and not kept."""
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
                    taken[read] = whole.index_select(0, torch.from_numpy(rows))
            found.append(taken)
        return Gathered(head.gather(found), lengths)

    def read(self, request: Request, read: Read, examples: Examples) -> torch.Tensor:
        """One pooled read of these rows, [rows, width]."""
        whole = self._found[request.form][read]
        assert isinstance(whole, torch.Tensor)
        return whole.index_select(0, torch.from_numpy(self._at(request, examples)))

    def once(self, what: str, head: Head, examples: Examples, make: Callable[[], Sized]) -> Sized:
        """What `make` derives from these features of these rows, kept under the name `what` for the next head
        that gathers the same; shared, so not to be changed. `nbytes` of its first part is its size. A thread
        that asks for what another one is making waits for it."""
        rows = self.rows(head.requests, examples)
        key = (what, type(head).gather.__qualname__, head.features, head.reads, rows)
        with self._guard:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._guard:
                found = self._kept.get(key)
            return self._keep(key, make()) if found is None else found

    def rows(self, requests: Sequence[Request], examples: Examples) -> tuple:
        """Which vectors these requests are about; equal where they are about the same."""
        return tuple((each.form, self._place(each, examples)[2]) for each in requests)

    def _keep(self, key: tuple, made: Sized) -> Sized:
        with self._guard:
            size = made[0].nbytes
            while self._kept and sum(each[0].nbytes for each in self._kept.values()) + size > _KEPT_BYTES:
                self._kept.pop(next(iter(self._kept)))
                self.dropped = True
            self._kept[key] = made
        return made

    def _at(self, request: Request, examples: Examples) -> np.ndarray:
        """Where the vectors of these rows stand among those found for the form of the request."""
        return self._place(request, examples)[1]

    def _place(self, request: Request, examples: Examples) -> tuple[Examples, np.ndarray, bytes]:
        # Examples are kept beside what is known of them, so that their id stays theirs; the bytes, so that
        # all keys about the same rows hold the same ones, hashed once.
        key = (request, id(examples))
        if key not in self._places:
            number = self._rows[request.form]
            places = np.asarray([number[key] for key in _keys(items_of(request, examples))], np.int64)
            self._places[key] = examples, places, places.tobytes()
        return self._places[key]


def features_of(
    backbone: Backbone,
    heads: Mapping[str, Head],
    rows: Mapping[str, Examples],
    *,
    also: Iterable[tuple[Request, Examples, Read]] = (),
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> FrozenFeatures:
    """What these heads read of these rows, by task, and single reads `also` of some rows."""
    also = list(also)
    needs = [(request, rows[name]) for name, head in heads.items() for request in head.requests]
    needs += [(request, examples) for request, examples, _ in also]
    reads: dict[Form, set[Read]] = {}
    for head in heads.values():
        for request in head.requests:
            reads.setdefault(request.form, set()).update(head.reads)
    for request, _, read in also:
        reads.setdefault(request.form, set()).add(read)
    return FrozenFeatures(backbone, needs, lambda form: sorted(reads[form]), cache=cache, progress=progress)


def features_by_task(
    backbone: Backbone, tasks: Iterable[str], make: Callable[[Backbone, list[str]], FrozenFeatures]
) -> Callable[[str], FrozenFeatures]:
    """The features that each task's head reads; `make` makes those of tasks with one backbone at once."""
    served: dict[Backbone, list[str]] = {}
    for name in tasks:
        served.setdefault(backbone.of(name), []).append(name)
    made: dict[str, FrozenFeatures] = {}
    for own, names in served.items():
        made |= dict.fromkeys(names, make(own, names))
    return made.__getitem__


def items_of(request: Request, examples: Examples) -> list:
    """The inputs of the rows, in the request's form."""
    columns = [examples.inputs[at] for at in request.at]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _keys(items: list) -> list:
    """The items, as a dictionary can have them as its keys."""
    return [tuple(item) for item in items] if items and isinstance(items[0], list) else items


def _words_at(words: Words, rows: np.ndarray) -> tuple[torch.Tensor, list[int]]:
    lengths = np.asarray(words.lengths, np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    taken = lengths[rows]
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    at = np.repeat(starts[rows], taken) + within
    return words.values.index_select(0, torch.from_numpy(at)), taken.tolist()
