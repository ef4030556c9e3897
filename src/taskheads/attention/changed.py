"""A backbone in which something is changed in every pass, whatever the batch: in generation, too."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Change, Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.running import Batch, ImageBatch
from taskheads.edits.composing import then
from taskheads.errors import BackboneError

# From a batch and how many tokens came before each of its rows, in earlier passes, to what is changed.
Changing = Callable[[RaggedBatch, Sequence[int]], Changes]


class Changed(Backbone):
    """The very backbone `trunk`, each pass of which has the changes that `changing` makes for its batch. The
    trunk stays as it is: to undo them all, use it.

    >>> quiet = Changed(backbone, lambda batch, past: scaled(heads, 0))
    >>> generate(quiet, language_head, batch, most=8)
    """

    def __init__(self, trunk: Backbone, changing: Changing) -> None:
        self.__dict__.update(trunk.__dict__)
        self.trunk, self.changing = trunk, changing
        self._widths = {}
        # What a function does is not known: nothing that was kept of one such backbone is of another.
        self._name = uuid.uuid4().hex

    @property
    def fingerprint(self) -> str:
        return self._name

    def run(
        self,
        batch: Batch,
        read: Sequence[str] = ("output",),
        changes: Changes | Mapping[str, Change] | None = None,
    ) -> dict:
        """As of any backbone, changed, and then as the further `changes` say."""
        if isinstance(batch, ImageBatch):
            raise BackboneError("the changes of a pass over images are given to `run`")
        further = Changes.of(changes)
        past = [0] * len(batch) if further.past is None else further.past.lengths
        return self.trunk.run(batch, read, then(self.changing(batch, past), further))
