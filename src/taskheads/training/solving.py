"""The heads of a whole suite, solved for on the frozen backbone: where every fit begins."""

from __future__ import annotations

import copy
import time
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cache import FeatureCache
from taskheads.model.evaluation import commonest
from taskheads.model.features import FrozenFeatures, Progress
from taskheads.model.model import Model
from taskheads.tasks.suite import Suite
from taskheads.tasks.task import TaskData
from taskheads.training.every_task import for_every_task
from taskheads.training.frozen import fit_head
from taskheads.training.joint.outcome import stage_of
from taskheads.training.joint.taking import choice_of
from taskheads.training.suite_features import every_candidate, suite_features
from taskheads.training.trial import Fitted


@dataclass(frozen=True)
class Solved:
    """The solved heads of a suite, which any number of fits can go on from.

    fitted: by task. features: of the frozen backbone, for all rows. cards: what the data card tells of each
    task, with its score on test where it has test rows. stages: as `stage_of` tells them.
    """

    fitted: dict[str, Fitted]
    features: FrozenFeatures
    cards: dict[str, dict[str, Any]]
    stages: list[dict[str, Any]]

    def put_into(self, model: Model) -> None:
        """Give the model these heads, and its data card what is known of them."""
        model.heads.update({name: each.head for name, each in self.fitted.items()})
        model.card["tasks"].update(copy.deepcopy(self.cards))
        model.card["seconds"] = {stage["name"]: stage["seconds"] for stage in self.stages}


def solve(
    backbone: Backbone,
    suite: Suite,
    *,
    seed: int | None = None,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Solved:
    """Solve for the head of each task, and judge it on its test rows; `seed`, by default the suite's, is that
    of the intervals."""
    started = time.perf_counter()
    features = suite_features(backbone, suite.tasks.values(), every_candidate, cache=cache, progress=progress)
    read_in = time.perf_counter() - started
    stages = [stage_of("features", read_in)]
    tasks = suite.tasks

    def solving(done: int) -> None:
        if progress is not None:
            progress("solving", done, len(tasks))

    solving(0)
    found = for_every_task(
        tasks, lambda _: features, lambda name: fit_head(backbone, tasks[name], features), solving
    )
    cards = {name: _card(data, found[name]) for name, data in tasks.items()}
    heads = {name: each.head for name, each in found.items()}
    rows = {name: data.splits["test"] for name, data in tasks.items() if len(data.splits["test"])}
    fresh = Model(backbone, heads, {"seed": suite.seed if seed is None else seed, "tasks": cards})
    for score in fresh.scores(rows, lambda _: features):
        cards[score.task]["test"] = score.to_json()
    stages.append(stage_of("heads", time.perf_counter() - started - read_in))
    return Solved(found, features, cards, stages)


def _card(data: TaskData, fitted: Fitted) -> dict[str, Any]:
    task, train = data.task, data.splits["train"]
    return {
        "kind": task.kind,
        "inputs": list(task.inputs),
        "label": task.label,
        "metric": task.metric,
        "labels": _counts(data),
        "rows": {split: len(examples) for split, examples in data.splits.items()},
        "commonest": commonest(task, train.targets),
        "understood": data.reasons,
        "seconds": round(fitted.seconds, 3),
        **choice_of(fitted),
    }


def _counts(data: TaskData) -> dict[str, int]:
    """How often each label occurs in train; empty for numbers and for search."""
    if not data.task.labels:
        return {}
    targets = data.splits["train"].targets
    several = bool(targets) and isinstance(targets[0], list)
    counts: Counter[str] = Counter()
    for label, count in Counter(chain.from_iterable(targets) if several else targets).items():
        counts[str(label)] += count
    return {str(label): counts[str(label)] for label in data.task.labels}
