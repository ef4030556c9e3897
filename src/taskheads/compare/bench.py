"""One run of a comparison: a way, on a part of the data, judged on dev. The test rows are not there."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.branching import own_tensors
from taskheads.backbone.cache import FeatureCache
from taskheads.compare.merging import merged
from taskheads.compare.ways import Way
from taskheads.errors import ConfigError, Interrupted, ModelError, TrainingError
from taskheads.model.model import Model
from taskheads.tasks.metrics import METRICS
from taskheads.tasks.suite import Suite
from taskheads.tasks.task import Examples, TaskData
from taskheads.training.fit import fit
from taskheads.training.joint.course import Course
from taskheads.training.joint.loop import FEWEST_STEPS
from taskheads.training.joint.recipe import Recipe
from taskheads.training.solving import Solved, solve

# Rows of a split below which a part of them would tell nothing.
FEWEST = 200
# Looks at dev in a training on a part of the rows: more would take most of its time.
_LOOKS = 2


class OutOfTime(TrainingError):
    """A training was still going on when all its time was over."""


@dataclass(frozen=True)
class Run:
    """What is to be run: a way with a seed, on a part of the rows.

    minutes: what tuning is planned for. seconds: of the clock, after which its trainings are stopped.
    keep: the folder of the model, where that will be needed. models, spent: of a merge, the folder of what
    `apart` made for it, and the seconds which that took.
    """

    way: Way
    seed: int
    part: float
    minutes: float = 10.0
    seconds: float = math.inf
    keep: Path | None = None
    models: Path | None = None
    spent: float = 0.0

    @property
    def name(self) -> str:
        """What identifies it in a comparison."""
        return f"{self.way.key}-{self.part:.4f}-{self.seed}"


@dataclass(frozen=True)
class Result:
    """What a run has come to, JSON-able.

    dev: each task's score. kept: the way that each task keeps, "frozen" where tuning did not help it.
    seconds: of solving and tuning, of a merge also those of its models. shortest, beside: of them, those of
    the fewest steps that its trainings can take, and those that it took beside all steps. peak_bytes: the
    most memory that the process held. steps: the most that one of its trainings had planned. parameters: of
    backbone and edits, trained or merged; bytes: to keep a task, its head and its share of these. groups: of
    tasks whose gradients are alike. problem: why there is no score.
    """

    way: dict[str, Any]
    seed: int
    part: float
    dev: dict[str, float] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    shortest: float = 0.0
    beside: float = 0.0
    peak_bytes: int = 0
    steps: int = 0
    parameters: int = 0
    bytes: int = 0
    groups: list[list[str]] | None = None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Bench:
    """What all runs of a comparison have in common, in one process: data, backbone, features, solved heads.

    stopped: asked after every step; a run that it says so to ends as by Ctrl-C.
    """

    def __init__(
        self,
        suite: Suite,
        backbone: Backbone,
        cache: FeatureCache,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.suite, self.backbone, self.cache, self.stopped = suite, backbone, cache, stopped
        self._begun: tuple[float, Suite, Solved] | None = None

    def begun(self, part: float) -> tuple[Suite, Solved]:
        """The suite with this part of its rows and no test rows, and the heads solved for on them; those of
        the latest part are kept."""
        if self._begun is None or self._begun[0] != part:
            suite = thinned(self.suite, part)
            self._begun = part, suite, solve(self.backbone, suite, cache=self.cache)
        return self._begun[1:]

    def run(self, run: Run) -> Result:
        """Fit or merge, judge on dev, and save the model where `keep` says. What cannot be fitted or merged,
        a training that diverges and one that is out of time are results too.

        Raises Interrupted; what is begun of a model that is kept is gone on with by the same run again.
        """
        watch = Stopwatch(time.monotonic() + run.seconds, self.stopped)
        suite, solved = self.begun(run.part)
        suite, began = replace(suite, seed=run.seed), time.monotonic()
        training: dict[str, Any] = {"minutes": run.minutes}
        if run.part < 1:
            training["evaluations"] = min(_LOOKS, Recipe.of(suite.training).evaluations)
        told: dict[str, Any] = {"way": run.way.to_json(), "seed": run.seed, "part": run.part}
        reset_peak()
        try:
            if run.models is not None:
                model = merged(run.way, suite, self.backbone, solved, run.models)
                if run.keep is not None:
                    model.save(run.keep)
            else:
                model = fit(
                    run.way.applied(suite),
                    out=run.keep,
                    backbone=self.backbone,
                    training=training,
                    resume=run.keep is not None,
                    solved=solved,
                    watch=watch,
                )
        except Interrupted:
            raise
        except (ConfigError, ModelError, TrainingError) as error:
            return Result(**told, problem=str(error))
        took = time.monotonic() - began
        tasks, report = model.card["tasks"], model.report or {}
        parameters, size = costs(model, self.backbone)
        fixed = Recipe.of(suite.training).steps is not None
        return Result(
            **told,
            dev={name: card["dev"] for name, card in tasks.items()},
            kept={name: card.get("kept", "frozen") for name, card in tasks.items()},
            seconds=sum(stage["seconds"] for stage in report["stages"]) + run.spent,
            shortest=watch.stepping if fixed else watch.shortest,
            beside=took - watch.stepping,
            peak_bytes=peak(),
            steps=watch.planned,
            parameters=parameters,
            bytes=size // max(1, len(tasks)),
            groups=(report["similarity"] or {}).get("groups"),
        )


class Stopwatch:
    """Looks on at the trainings of a run, and ends them.

    until: when they have to be over, by `time.monotonic`. stopped: as `Bench` has it. stepping: the seconds
    of all steps, with their looks at dev.
    """

    def __init__(self, until: float, stopped: Callable[[], bool]) -> None:
        self.until, self.stopped, self.stepping = until, stopped, 0.0
        self._planned: dict[str, int] = {}
        self._steps = Counter[str]()
        self._last = ("", 0.0)

    def __call__(self, name: str, course: Course) -> None:
        """After a step of the training of this name. Raises OutOfTime; where stopped, KeyboardInterrupt."""
        now = time.monotonic()
        if self._last[0] == name:
            self.stepping += now - self._last[1]
        self._last = name, now
        self._steps[name] += 1
        self._planned[name] = course.planned  # fewer than at first, where the minutes allow no more
        if self.stopped():
            raise KeyboardInterrupt
        if now > self.until:
            raise OutOfTime(f"its time was over after step {course.step} of {course.planned}")

    @property
    def planned(self) -> int:
        """The most steps of one training."""
        return max(self._planned.values(), default=0)

    @property
    def shortest(self) -> float:
        """The seconds of the fewest steps that each of the trainings takes."""
        seen = sum(self._steps.values())
        return self.stepping * min(1.0, FEWEST_STEPS * len(self._steps) / seen) if seen else 0.0


def thinned(suite: Suite, part: float) -> Suite:
    """The suite with a part of the train and dev rows, evenly spaced, and without its test rows."""
    return replace(suite, tasks={name: _thinned(data, part) for name, data in suite.tasks.items()})


def rows_at(suite: Suite, part: float) -> int:
    """The train and dev rows that `thinned` leaves."""
    left = thinned(suite, part).tasks.values()
    return sum(len(data.splits["train"]) + len(data.splits["dev"]) for data in left)


def _thinned(data: TaskData, part: float) -> TaskData:
    def some(rows: Examples) -> Examples:
        return rows.thinned(max(round(part * len(rows)), FEWEST))

    train, dev = some(data.splits["train"]), some(data.splits["dev"])
    return replace(data, splits={"train": train, "dev": dev, "test": data.splits["test"].at([])})


def costs(model: Model, base: Backbone) -> tuple[int, int]:
    """The numbers that were trained beside the heads, and the bytes of all that the model has beyond its
    pretrained backbone `base`, heads included."""
    backbones = [(model.backbone, base)] if model.backbone is not base else []
    backbones += [
        (branch.backbone, model.branches[branch.trunk].backbone if branch.trunk else model.backbone)
        for branch in model.branches.values()
    ]
    parameters = size = 0
    for backbone, trunk in backbones:
        learning = {name for name, each in backbone.model.named_parameters() if each.requires_grad}
        own = own_tensors(backbone, trunk)
        parameters += sum(each.numel() for name, each in own.items() if name in learning)
        size += sum(each.nbytes for name, each in own.items() if name in learning)
    for edit in dict.fromkeys(model.edits.values()):
        parameters += sum(each.numel() for each in edit.parameters())
        size += sum(each.nbytes for each in edit.state_dict().values())
    size += sum(each.nbytes for head in model.heads.values() for each in head.state_dict().values())
    return parameters, size


def reset_peak() -> None:
    """Begin to count the most memory held anew, where the system can (Linux: proc(5), clear_refs)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes of memory that this process has held, since `reset_peak` where that could be."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def quality(values: Mapping[str, float], scales: Mapping[str, float]) -> float:
    """The mean of the tasks' scores, each times its scale (see `scales_of`): higher is better."""
    return sum(values[name] * scales[name] for name in values) / len(values)


def scales_of(suite: Suite, frozen: Mapping[str, float]) -> dict[str, float]:
    """What makes scores of different metrics one mean: 1 for those where higher is better, which lie below 1;
    an error counts as the negative share of the frozen head's."""
    return {
        name: 1.0 if METRICS[data.task.metric].higher_is_better else -1.0 / max(abs(frozen[name]), 1e-9)
        for name, data in suite.tasks.items()
    }
