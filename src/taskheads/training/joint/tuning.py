"""Fine-tuning with the promise that no task ends worse than it was: what is tried, and what each task
keeps."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.branching import Branch, branched
from taskheads.errors import Interrupted, TrainingError
from taskheads.heads import Head
from taskheads.model.features import FrozenFeatures, features_by_task
from taskheads.tasks.task import TaskData
from taskheads.training.every_task import for_every_task
from taskheads.training.joint.checkpoints import Checkpoints
from taskheads.training.joint.course import Course
from taskheads.training.joint.loop import Run
from taskheads.training.joint.optimiser import freeze_below, layer_of_weights
from taskheads.training.joint.outcome import SHARED, Answered, Candidate, Outcome, answered
from taskheads.training.joint.recipe import Recipe
from taskheads.training.joint.rows import TaskRows
from taskheads.training.joint.settle import settled
from taskheads.training.joint.starting import starting_heads, unsure
from taskheads.training.suite_features import single, suite_features
from taskheads.training.trial import Fitted

Watch = Callable[[str, Course], None]
Begin = Callable[[str, Recipe], Run]

# Of the minutes, what the shared backbone gets before private layers are tried.
_FOR_SHARED = 0.75


@dataclass
class Stages:
    """The training runs of one outcome, and what they have in common.

    tasks: with dev rows enough to choose on. frozen: each task's head on the frozen backbone. folder: where
    checkpoints are kept, a folder for each run; None keeps none. watch: called with a run's name and its
    course after every step. made: where the runs' candidates go.
    """

    tasks: Mapping[str, TaskData]
    frozen: Mapping[str, Fitted]
    recipe: Recipe
    seed: int
    folder: Path | None
    watch: Watch | None
    made: Outcome

    def by_groups(self) -> list[Stages]:
        """The same for each of the recipe's groups of tasks, with its share of the work."""
        groups = self.recipe.grouped(self.tasks)
        if len(groups) == 1:
            return [self]
        less = smaller(self.recipe, 1 / len(groups))
        return [
            replace(self, tasks={name: self.tasks[name] for name in group}, recipe=less) for group in groups
        ]

    def branch(self, name: str, begin: Begin, recipe: Recipe) -> Candidate:
        """Train a backbone and its heads, settle the heads, and note the candidate.

        `begin` makes a run from a name and a recipe. Of the recipe's `rates`, if there are any, one is
        chosen.
        """
        best = self.at_best_rate(name, begin, recipe) if recipe.rates else None
        with self.made.stage(name):
            run = best or begin(name, recipe)
            course = run.train()
        found = Candidate(Branch(run.whole), *self.settle(name, run.whole, run.heads), course)
        self.made.candidates[name] = found
        return found

    def at_best_rate(self, name: str, begin: Begin, recipe: Recipe) -> Run:
        """The run, begun at each of the recipe's `rates`, that was best on dev when a third of it was over.

        Raises the last TrainingError where the run fails at each of them.
        """
        found, best = None, -math.inf
        failed: TrainingError | None = None
        for rate in recipe.rates:
            called = f"{name}, lr {rate:g}"
            try:
                with self.made.stage(called):
                    run = begin(called, recipe.at(rate))
                    run.until(recipe.tried_for)
            except Interrupted:
                raise
            except TrainingError as error:
                failed = error
                continue
            # By the same looks whether the run stops here, or was resumed from beyond.
            gain = run.course.best_gain(run.alone, recipe.tried_for)
            if found is None or gain > best:
                found, best = run, gain
        if found is None:
            assert failed is not None
            raise failed
        return found

    def begin(
        self, name: str, recipe: Recipe, backbone: Backbone, heads: Mapping[str, Head], about: Any = None
    ) -> Run:
        """A run in which what learns in the backbone, and these heads, are trained. `about` is what else a
        resumed run must agree in."""
        watch = self.watch
        chosen = {task: self.tasks[task] for task in heads}
        rows = {
            task: TaskRows.of(backbone, type(heads[task]), data.task, data.splits["train"])
            for task, data in chosen.items()
        }
        dev = {task: data.splits["dev"] for task, data in chosen.items()}
        alone = {task: self.frozen[task].utility for task in chosen}
        kept = None
        if self.folder is not None:
            data = _digest(backbone, rows)
            said = recipe.model_dump(exclude={"shard"})  # which changes no number
            same = {"recipe": said, "seed": self.seed, "data": data, "about": about}
            kept = Checkpoints(self.folder / name.replace(" ", "-"), same)
        return Run(
            backbone,
            heads,
            rows,
            dev,
            alone,
            recipe,
            seed=self.seed,
            checkpoints=kept,
            watch=watch and (lambda course: watch(name, course)),
        )

    def settle(
        self, name: str, backbone: Backbone, heads: Mapping[str, Head]
    ) -> tuple[dict[str, Fitted], dict[str, Answered]]:
        """The heads of these tasks as they are best on what the backbone has become, and what they answer."""
        with self.made.stage(f"{name}, heads"):
            features = features_by_task(
                backbone,
                heads,
                lambda own, tasks: suite_features(own, [self.tasks[task] for task in tasks], single),
            )
            fitted = for_every_task(
                {task: self.tasks[task] for task in heads},
                features,
                lambda task: settled(backbone, self.tasks[task], heads[task], features(task)),
            )
            decisions: dict[str, Answered] = {}
            for task in fitted:
                decisions |= answered({task: fitted[task]}, self.tasks, features(task))
        return fitted, decisions


def tune_shared(backbone: Backbone, features: FrozenFeatures, stages: Stages, *, full: bool = False) -> None:
    """Fine-tune a copy of the backbone for all tasks, and choose for each of them on dev.

    The heads begin as the solutions on the frozen backbone's last layer (Kumar et al. 2022, arXiv:2202.10054:
    where it tells a task well, a solved head does not distort it), less sure of themselves (`unsure`), and
    are settled anew when the backbone has learned. A task that is better off on the frozen backbone tries
    layers of its own.

    `features` are those of the frozen backbone, which stays as it is. Under `full` every task keeps the
    shared backbone, better or not.
    """
    tasks, frozen, recipe, made = stages.tasks, stages.frozen, stages.recipe, stages.made
    ours = SHARED if len(tasks) == len(made.kept) else f"{SHARED} {'+'.join(tasks)}"
    heads = unsure(starting_heads(backbone, tasks, features), tasks, features)
    # Without private layers to come after it the shared run has all the time.
    most = recipe if full else recipe.model_copy(update={"minutes": _share(recipe, _FOR_SHARED)})
    every = dict(backbone.model.named_parameters())
    begin = partial(_begin_on_copy, stages, backbone, every, recipe.frozen_layers, heads)
    for name, fitted in stages.branch(ours, begin, most).fitted.items():
        if full or fitted.utility > frozen[name].utility:
            made.kept[name] = ours
    if not full:
        _tune_private(backbone, stages, {name: heads[name] for name in tasks if made.kept[name] != ours})


def _tune_private(backbone: Backbone, stages: Stages, heads: Mapping[str, Head]) -> None:
    """Train for each of these tasks alone, under its head, a copy of the backbone's top layers on top of the
    lower ones as they were; a task keeps them where on dev they are better than its frozen head."""
    recipe, made = stages.recipe, stages.made
    top = max(1, recipe.frozen_layers, backbone.n_layers - recipe.private_layers)
    place = layer_of_weights(backbone)
    own = {name: each for name, each in backbone.model.named_parameters() if place[name] >= top}
    less = smaller(recipe, (1 - _FOR_SHARED) / max(1, len(heads)))
    for name, head in heads.items():
        begin = partial(_begin_on_copy, stages, backbone, own, top, {name: head})
        tried = stages.branch(f"private {name}", begin, less).fitted[name]
        if tried.utility > stages.frozen[name].utility:
            made.kept[name] = f"private {name}"


def tune_alone(backbone: Backbone, features: FrozenFeatures, stages: Stages) -> None:
    """Tune a copy of the backbone for each task alone, with its share of the minutes: what sharing is
    compared with. No task keeps it."""
    less = smaller(stages.recipe, 1 / len(stages.tasks))
    heads = unsure(starting_heads(backbone, stages.tasks, features), stages.tasks, features)
    every = dict(backbone.model.named_parameters())
    for name, head in heads.items():
        begin = partial(_begin_on_copy, stages, backbone, every, less.frozen_layers, {name: head})
        stages.branch(f"alone {name}", begin, less)


def _begin_on_copy(
    stages: Stages,
    backbone: Backbone,
    own: Mapping[str, torch.Tensor],
    frozen_layers: int,
    heads: Mapping[str, Head],
    name: str,
    recipe: Recipe,
) -> Run:
    """A run in which copies of the weights `own` of the backbone are tuned, but for its lowest layers, and
    copies of these heads."""
    copied = branched(backbone, own)
    freeze_below(copied, frozen_layers)
    return stages.begin(name, recipe, copied, {task: copy.deepcopy(head) for task, head in heads.items()})


def _share(recipe: Recipe, part: float) -> float | None:
    return None if recipe.minutes is None else recipe.minutes * part


def smaller(recipe: Recipe, part: float) -> Recipe:
    """The recipe for a part of the work."""
    steps = None if recipe.steps is None else max(1, round(recipe.steps * part))
    return recipe.model_copy(update={"minutes": _share(recipe, part), "steps": steps})


def _digest(backbone: Backbone, rows: Mapping[str, TaskRows]) -> str:
    """What identifies a backbone's first weights and the rows it learns from."""
    digest = hashlib.blake2b(backbone.fingerprint.encode(), digest_size=16)
    for name, mine in rows.items():
        digest.update(f"{name} {len(mine)} ".encode())
        digest.update(mine.targets.numpy().tobytes())
        for request in mine.encoded:
            for row in request:
                digest.update(row.ids.tobytes())
    return digest.hexdigest()
