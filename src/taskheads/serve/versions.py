"""Which models are served, and which version of each a request means."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from taskheads.heads import Head
from taskheads.model.model import Model
from taskheads.model.prediction import answer_block
from taskheads.serve.collection import Collection
from taskheads.serve.problems import Problem, invalid
from taskheads.tasks.suggest import did_you_mean, listed

if TYPE_CHECKING:
    from taskheads.attention.heads import AttentionHeads

# A number for each attention head, null for those that are not there.
ByHead = list[list[float | None]]

# Rows of one, some and many tokens: what is made at first use is made before a version is used.
_WARMING = ("a", "a text of a few words", "a text which goes on for a good deal longer " * 4)


@dataclass(frozen=True, eq=False)
class Version:
    """A model as it is at one moment; it is never changed, only replaced.

    id: the same for equal models, in whichever process. folder: where it was read from. collections: by embed
    task, what search finds. out_of_scope: by task, the label that says a text is none of the others.
    importance: by task, how much it hangs on each attention head [layers, heads], as `taskheads inspect`
    found over data; None for a model that was not inspected.
    """

    name: str
    id: str
    model: Model
    folder: Path
    collections: Mapping[str, Collection] = field(default_factory=dict)
    out_of_scope: Mapping[str, str] = field(default_factory=dict)
    importance: Mapping[str, ByHead] | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.id}"

    @cached_property
    def attention_heads(self) -> AttentionHeads:
        """Those that the tasks share, found at first use."""
        from taskheads.attention.heads import AttentionHeads

        return AttentionHeads(self.model.backbone)

    def heads(self, tasks: Sequence[str] | None, where: str = "tasks") -> dict[str, Head]:
        """The heads of these tasks, all by default. Raises Problem for a task that is not there."""
        heads = self.model.heads
        if tasks is None:
            if not heads:
                raise Problem(409, f"the model {self.name!r} has no task to answer")
            return dict(heads)
        for at, task in enumerate(tasks):
            if task not in heads:
                near = did_you_mean(task, heads)
                raise invalid(f"{where}[{at}]", f"no such task{near}; the tasks are {listed(heads)}")
        return {task: heads[task] for task in tasks}

    def labels_of(self, task: str) -> tuple:
        """The labels of this classify task, if there is one."""
        head = self.model.heads.get(task)
        return head.task.labels if head is not None and head.task.kind == "classify" else ()

    def warm(self) -> None:
        """Ask every task once, so that nobody waits for what is made at first use."""
        if not self.model.heads:
            return
        columns = {column for head in self.model.heads.values() for column in head.task.inputs}
        for text in _WARMING:
            answer_block(
                self.model.heads, self.model.backbone_of, [dict.fromkeys(columns, text)], scores=True
            )


class Registry:
    """The versions of every model, the current one last. Reading needs no lock: what is read is replaced as
    a whole."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._versions: Mapping[str, tuple[Version, ...]] = {}

    def put(self, version: Version) -> None:
        """Make this version the current one of its model. Requests that were taken before keep theirs."""
        before = (each for each in self._versions.get(version.name, ()) if each.id != version.id)
        self._versions = {**self._versions, version.name: (*before, version)[-self._kept :]}

    def __iter__(self) -> Iterator[Version]:
        """Every version, the current one of each model first."""
        for versions in self._versions.values():
            yield from reversed(versions)

    def current(self) -> list[Version]:
        return [versions[-1] for versions in self._versions.values()]

    def find(self, asked: str | None) -> Version:
        """The version that `NAME` (the current one), `NAME@ID` or nothing (the first model) means.

        Raises Problem for one that is not here.
        """
        if asked is None:
            return next(iter(self._versions.values()))[-1]
        name, _, wanted = asked.partition("@")
        versions = self._versions.get(name)
        if versions is None:
            raise invalid(
                "model",
                f"no such model{did_you_mean(name, self._versions)}; there are {listed(self._versions)}",
            )
        if not wanted:
            return versions[-1]
        for version in versions:
            if version.id == wanted:
                return version
        raise Problem(
            410,
            f"that version of {name!r} is not kept; there are {listed(map(str, versions))}",
            field="model",
        )


def identity(model: Model) -> str:
    """Eight hex digits of all that a model's answers depend on."""
    digest = hashlib.blake2b(digest_size=4)
    for name, head in sorted(model.heads.items()):
        reads = [str(read) for read in head.reads]
        about = [head.task.to_json(), reads, model.backbone_of(name).fingerprint]
        digest.update(json.dumps(about, sort_keys=True).encode())
        for key, tensor in sorted(head.state_dict().items()):
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def by_head(values: torch.Tensor) -> ByHead:
    """[layers, heads] as JSON has it, which knows finite numbers alone."""
    return [[round(each, 6) if math.isfinite(each) else None for each in layer] for layer in values.tolist()]


def name_of(folder: Path) -> str:
    """What a model is called in requests: its folder's name, which may not hold an `@` or a `/`."""
    return re.sub(r"[^\w.-]+", "-", folder.absolute().name) or "model"
