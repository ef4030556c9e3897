"""A backbone in which tasks change something each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Change, Changes, Lower
from taskheads.backbone.reads import Read
from taskheads.backbone.running import Batch, ImageBatch
from taskheads.backbone.sites import layer_of
from taskheads.edits.composing import then
from taskheads.edits.edit import Edit
from taskheads.edits.mixing import Segment, mixed


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
        self._views: dict[str, Edited] = {}
        self._whole = self

    def of(self, task: str) -> Backbone:
        """The backbone as this task has it; the same object each time."""
        if task not in self.edits:
            return self.trunk
        if task not in self._views:
            self._views[task] = Edited(self.trunk, self.edits, task)
            self._views[task]._whole = self
        return self._views[task]

    @cached_property
    def together(self) -> Together:
        """What answers several of the tasks about the same rows."""
        return Together(self)

    @property
    def shared_pass(self) -> Backbone:
        return self if self.task is None else self._whole.together

    def read_as(self, read: Read) -> Read:
        return replace(read, site=f"{self.task}:{read.site}")

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
        """As of any backbone, each row changed as its task says, and then as the further `changes` say.

        Their past stands between a task's prefix and a row's own tokens. Where it holds something, the rows
        are going on: what it holds begins with their prompts, and these are not put there again.
        """
        tasks = batch.tasks or ((self.task or "", len(batch)),)
        segments = self._segments(batch, tasks)
        if not changes:
            return self.trunk.run(batch, read, mixed(segments))
        further = Changes.of(changes)
        if further.past is not None and any(further.past.lengths):
            segments = [_without_prompt(segment) for segment in segments]
        return self.trunk.run(batch, read, then(mixed(segments), further))

    @property
    def shares_weights(self) -> bool:
        return False

    def penalty(self) -> torch.Tensor | None:
        """The sum of the edits' penalties."""
        found = [each for edit in dict.fromkeys(self.edits.values()) if (each := edit.penalty()) is not None]
        return torch.stack(found).sum() if found else None

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The edits' parameters: the trunk's do not learn."""
        numbers: dict[Edit, str] = {}
        for task, edit in self.edits.items():
            numbers.setdefault(edit, task)
        for edit, task in numbers.items():
            for name, parameter in edit.named_parameters():
                yield f"{task}.{name}", parameter

    def named_state(self) -> Iterator[tuple[str, torch.Tensor]]:
        for number, edit in enumerate(dict.fromkeys(self.edits.values())):
            learning = dict(edit.named_parameters())
            for name, tensor in edit.state_dict().items():
                if name not in learning:
                    yield f"{number}.{name}", tensor

    def train(self, mode: bool = True) -> None:
        self.trunk.train(mode)
        for edit in self.edits.values():
            edit.train(mode)

    def _segments(self, batch: Batch, tasks: Sequence[tuple[str, int]]) -> list[Segment]:
        lengths = [self.trunk.patches] * len(batch) if isinstance(batch, ImageBatch) else batch.lengths
        segments, start = [], 0
        for task, count in tasks:
            some = lengths[start : start + count]
            edit = self.edits.get(task)
            segments.append(Segment(None if edit is None else edit.own(task, some), some))
            start += count
        return segments


def _without_prompt(segment: Segment) -> Segment:
    own = segment.own
    return segment if own is None else replace(segment, own=replace(own, prompt=None))


class Together(Backbone):
    """Many tasks asked about the same rows: the layers below all of their edits run once.

    A site is `TASK:site` here, the site as that task's own backbone has it. What is above the common layers
    is a pass of its own for each task, so that no bit of it depends on which other tasks are asked.
    """

    def __init__(self, edited: Edited) -> None:
        self.__dict__.update(edited.trunk.__dict__)
        self.edited = edited

    def check(self, sites: Iterable[str]) -> None:
        self.edited.trunk.check(site.partition(":")[2] for site in sites)

    def width_of(self, site: str) -> int:
        task, _, site = site.partition(":")
        return self.edited.of(task).width_of(site)

    def run(
        self,
        batch: Batch,
        read: Sequence[str] = (),
        changes: Changes | Mapping[str, Change] | None = None,
    ) -> dict[str, torch.Tensor]:
        """The sites `TASK:site` of `read`."""
        wanted: dict[str, list[str]] = {}
        for name in read:
            task, _, site = name.partition(":")
            wanted.setdefault(task, []).append(site)
        found = run_together(self.edited, batch, wanted)
        return {f"{task}:{site}": each for task, sites in found.items() for site, each in sites.items()}


def run_together(
    edited: Edited, batch: Batch, read: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, torch.Tensor]]:
    """For each task of `read`, the sites that it reads of this batch, as `edited.of(task).run` gives them."""
    changes = {task: edited.changes_of(task, batch) for task in read}
    layer = min(each.lowest(edited.layout) for each in changes.values())
    low = dict.fromkeys(site for sites in read.values() for site in sites if layer_of(site) < layer)
    lower, found = Lower(layer), {task: dict[str, torch.Tensor]() for task in read}
    below: dict[str, torch.Tensor] = {}
    for task, sites in read.items():
        high = [site for site in sites if site not in low]
        if high:
            wanted = high if below or not low else [*low, *high]
            made = edited.trunk.run(batch, wanted, replace(changes[task], lower=lower))
            below = below or {site: made[site] for site in low}
            found[task] = {site: made[site] for site in high}
    if low and not below:
        below = edited.trunk.run(batch, list(low), Changes())
    for task, sites in read.items():
        found[task] |= {site: below[site] for site in sites if site in low}
    return found


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
