"""What tuning tried, what each task keeps of it, and what the stages of that took."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from taskheads.backbone.branching import Branch
from taskheads.edits.edit import Edit
from taskheads.heads.head import Decisions
from taskheads.model.evaluation import decided
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import TaskData
from taskheads.training.joint.course import Course
from taskheads.training.trial import Fitted

Answered = tuple[torch.Tensor, Decisions]

SHARED = "shared"


@dataclass
class Candidate:
    """One way for some tasks.

    branch: what their heads stand on; None is the frozen backbone. edits: what tasks change in that. sizes:
    of an edit, a task's share of the trained parameters and of the bytes on disk. fitted: the heads.
    answered: what they decide about the test rows. course: of the training run.
    """

    branch: Branch | None
    fitted: dict[str, Fitted]
    answered: dict[str, Answered]
    course: Course = field(default_factory=Course)
    edits: dict[str, Edit] = field(default_factory=dict)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass
class Outcome:
    """What tuning tried and chose.

    candidates: by name: "frozen", "shared" ("shared A+B" of a group), "private TASK", "alone TASK", the
        method of an edit. kept: the name that each task keeps.
    stages: as `stage_of` tells them.
    """

    candidates: dict[str, Candidate]
    kept: dict[str, str]
    stages: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of_frozen(
        cls, tasks: Mapping[str, TaskData], fitted: Mapping[str, Fitted], features: FrozenFeatures
    ) -> Outcome:
        """Before anything is tuned: each task has its head on the frozen backbone."""
        frozen = Candidate(None, dict(fitted), answered(fitted, tasks, features))
        return cls({"frozen": frozen}, dict.fromkeys(tasks, "frozen"))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note what happens in the block as a stage, if it comes to its end."""
        began = time.perf_counter()
        yield
        self.stages.append(stage_of(name, time.perf_counter() - began))


def stage_of(name: str, seconds: float) -> dict[str, Any]:
    """A stage that has just ended: its seconds, and the most memory that the process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"name": name, "seconds": round(seconds, 2), "peak_bytes": peak}


def answered(
    fitted: Mapping[str, Fitted], tasks: Mapping[str, TaskData], features: FrozenFeatures
) -> dict[str, Answered]:
    """The scores and decisions of these heads about their tasks' test rows, where there are any."""
    rows = {name: tasks[name].splits["test"] for name in fitted}
    return {name: decided(fitted[name].head, some, features) for name, some in rows.items() if len(some)}
