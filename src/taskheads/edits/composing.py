"""Changes on top of changes, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from taskheads.backbone.changes import Changes, Past
from taskheads.backbone.generating import Kept
from taskheads.backbone.patterns import Watcher
from taskheads.edits.edit import KeysValues
from taskheads.errors import BackboneError


def then(first: Changes, second: Changes) -> Changes:
    """Both at once: at each site and map what `second` does to what `first` made there, and the past of
    `second` between that of `first` and a row's own tokens.

    Raises BackboneError where `second` has prompts, or either says what the lower layers give.
    """
    given = (first.lower, second.lower, first.attended, second.attended)
    if second.prompts is not None or any(each is not None for each in given):
        raise BackboneError("prompts, and what layers gave before, cannot be had on top of other changes")
    if first.prompts is not None and isinstance(second.past, Kept):
        second.past.prompted(first.prompts.lengths)
    pasts = [past for past in (first.past, second.past) if past is not None]
    return Changes(
        _joined(first.sites, second.sites),
        _joined(first.maps, second.maps),
        first.prompts,
        InTurn(*pasts) if len(pasts) == 2 else next(iter(pasts), None),
        watched=_both_shown(first.watched, second.watched),
    )


def _joined(first: Mapping[str, Callable], second: Mapping[str, Callable]) -> dict[str, Callable]:
    both = {name: _composed(first[name], second[name]) for name in first if name in second}
    return {**first, **second, **both}


def _composed(first: Callable, second: Callable) -> Callable:
    # A function at a map sees its input too; the last argument is what there is to change.
    return lambda *given: second(*given[:-1], first(*given))


def _both_shown(first: Mapping[int, Watcher], second: Mapping[int, Watcher]) -> dict[int, Watcher]:
    def shown(layer: int) -> Watcher:
        return lambda piece: (first[layer](piece), second[layer](piece))[1]

    return {**first, **second, **{layer: shown(layer) for layer in first if layer in second}}


class InTurn:
    """The keys and values of one past, and after them those of another."""

    def __init__(self, first: Past, second: Past) -> None:
        self.pasts = first, second
        self.lengths: Sequence[int] = [a + b for a, b in zip(first.lengths, second.lengths, strict=True)]

    def of(self, layer: int, rows: np.ndarray) -> KeysValues:
        """Keys and values of some rows, which have equally many in all."""
        before = np.asarray(self.pasts[0].lengths)[rows]
        places = [np.flatnonzero(before == length) for length in np.unique(before)]
        found = [self._alike(layer, rows[at]) for at in places]
        keys, values = (torch.cat(each) for each in zip(*found, strict=True))
        if len(places) == 1:
            return keys, values
        back = torch.from_numpy(np.argsort(np.concatenate(places))).to(keys.device)
        return keys[back], values[back]

    def _alike(self, layer: int, rows: np.ndarray) -> KeysValues:
        """Of rows which have equally many in each of the two."""
        parts = [past.of(layer, rows) for past in self.pasts if past.lengths[rows[0]]]
        keys, values = (torch.cat(each, 1) for each in zip(*parts, strict=True))
        return keys, values
