"""A backbone in which tasks change something each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Change, Changes
from taskheads.backbone.running import Batch, ImageBatch
from taskheads.edits.edit import Edit
from taskheads.edits.mixing import Segment, mixed
from taskheads.errors import BackboneError


class Edited(Backbone):
    """The very backbone `trunk`, and on top of it what the tasks of `edits` change.

    Parameters
    ----------
    trunk: the backbone; it stays as it is, and so does every task without an edit.
    edits: by task; several tasks may have the same one.
    task: whose rows a batch holds that does not say whose they are.

    A batch says whose rows it holds by its `tasks`: pairs of a task and its number of rows, in their order.
    """

    def __init__(self, trunk: Backbone, edits: Mapping[str, Edit], task: str | None = None) -> None:
        self.__dict__.update(trunk.__dict__)
        self.trunk, self.edits, self.task = trunk, edits, task
        self._widths = {}

    def of(self, task: str) -> Backbone:
        return Edited(self.trunk, self.edits, task) if task in self.edits else self.trunk

    def changes_of(self, task: str, batch: Batch) -> Changes:
        """What `task` changes when all rows of the batch are its own."""
        return mixed(self._segments(batch, ((task, len(batch)),)))

    @property
    def fingerprint(self) -> str:
        """As of any backbone; the edit of its one task is part of it."""
        if self.task is None:
            return self.trunk.fingerprint
        edit = self.edits[self.task]
        about = [edit.method, self.task, edit.options]
        digest = hashlib.blake2b(self.trunk.fingerprint.encode(), digest_size=16)
        digest.update(json.dumps(about, sort_keys=True, default=str).encode())
        for name, tensor in sorted(edit.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def run(
        self,
        batch: Batch,
        read: Sequence[str] = ("output",),
        changes: Changes | Mapping[str, Change] | None = None,
    ) -> dict[str, torch.Tensor]:
        """As of any backbone, each row changed as its task says. It takes no further `changes`."""
        if changes:
            raise BackboneError("what a task changes already cannot be changed again in the same pass")
        tasks = batch.tasks or ((self.task or "", len(batch)),)
        return self.trunk.run(batch, read, mixed(self._segments(batch, tasks)))

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The edits' parameters: the trunk's do not learn."""
        numbers: dict[Edit, str] = {}
        for task, edit in self.edits.items():
            numbers.setdefault(edit, task)
        for edit, task in numbers.items():
            for name, parameter in edit.named_parameters():
                yield f"{task}.{name}", parameter

    def train(self, mode: bool = True) -> None:
        self.trunk.train(mode)
        for edit in self.edits.values():
            edit.train(mode)

    def _segments(self, batch: Batch, tasks: Sequence[tuple[str, int]]) -> list[Segment]:
        lengths = [self.patches] * len(batch) if isinstance(batch, ImageBatch) else batch.lengths
        segments, start = [], 0
        for task, count in tasks:
            some = lengths[start : start + count]
            edit = self.edits.get(task)
            segments.append(Segment(None if edit is None else edit.own(task, some), some))
            start += count
        return segments


@contextmanager
def frozen(backbone: Backbone) -> Iterator[None]:
    """Meanwhile no weight of the backbone asks for a gradient."""
    learning = [each for each in backbone.model.parameters() if each.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
