"""A merge of taskheads models from its plan to the saved model, and to the table of what it cost."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.reads import Read
from taskheads.errors import ConfigError
from taskheads.heads import Head
from taskheads.heads.head import Form
from taskheads.merging import engine
from taskheads.merging.files.as_torch import AsTorch
from taskheads.merging.files.checkpoint import Checkpoint
from taskheads.merging.learned.fitting import learn, statistics_of
from taskheads.merging.plan import Plan
from taskheads.merging.trunks import Sources, laid_out, merged_trunk, model_of
from taskheads.model.evaluation import Score
from taskheads.model.model import Model
from taskheads.model.saving import check_writable
from taskheads.tasks.suite import Suite, load_suite
from taskheads.tasks.task import TaskData
from taskheads.training.joint.rows import TaskRows
from taskheads.training.joint.settle import settled
from taskheads.training.suite_features import single, suite_features

# The merges without data beside which a merge is judged; of these the best on dev.
STATIC: list[tuple[str, dict[str, float]]] = [
    ("linear", {}),
    *(("task_arithmetic", {"scale": scale}) for scale in (0.3, 0.5, 1.0)),
    *(("ties", {"scale": scale}) for scale in (0.5, 1.0)),
    ("tall_masks_consensus", {"scale": 0.5}),
]


@dataclass(frozen=True)
class Kept:
    """What a merge left of one task, by its scores on the test rows of the data.

    original: of the task's own model. merged: of the merged one. static: of the best merge without data,
    called `best` (by the mean of what it keeps on dev).
    """

    original: Score
    merged: Score
    static: Score
    best: str

    @property
    def share(self) -> float | None:
        """merged / original; None where that says nothing."""
        return self.merged.value / self.original.value if self.original.value > 0 else None


def merge(
    plan: Plan,
    out: Path,
    *,
    data: Any = None,
    threads: int = 1,
    progress: engine.Progress | None = None,
) -> list[Kept]:
    """Merge taskheads models into one, saved to the folder `out`; all or nothing.

    No head is averaged: the merged model has every head of every model, as it was or, with
    `plan.recalibrate`, solved anew on train rows, and answers all tasks. Trunks lie on disk meanwhile,
    and one model at a time is in memory.

    `data` is a suite with the models' tasks (what `taskheads.fit` takes): what learned methods learn from,
    and what every original, the merge and the best static merge are scored on. Without it nothing is scored.

    Raises ConfigError for data that lack a task, and what `laid_out`, `learn` and `engine.run` raise.
    """
    check_writable(out)
    out = Path(out).absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    suite = data if data is None or isinstance(data, Suite) else load_suite(data)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=out.parent) as folder:
        work = Path(folder)
        sources = laid_out(plan, work)
        if suite is None:
            model_of(
                sources, merged_trunk(sources, work / "merged", threads=threads, progress=progress)
            ).save(out)
            return []
        tasks = data_of(sources, suite)
        found = originals(plan, suite)
        trunk = merged_by_data(sources, tasks, work, threads, progress)
        model = model_of(sources, trunk)
        if plan.recalibrate:
            model.heads |= {name: _recalibrated(model, name, tasks[name]) for name in model.heads}
        merged = _by_task(model.evaluate(suite))
        best, static = best_static(sources, suite, work, threads)
        model.save(out)
    return [Kept(found[task], merged[task], static[task], best) for task in merged]


def best_static(sources: Sources, suite: Suite, work: Path, threads: int = 1) -> tuple[str, dict[str, Score]]:
    """The merge of `STATIC` that has the best mean utility on dev, and its scores on test."""
    found: tuple[float, str, Model] | None = None
    for method, options in STATIC:
        if method != "linear" and sources.plan.base is None:
            continue
        told = {"method": method, "options": options, "rules": (), "keep": None}
        entries = tuple(entry.model_copy(update={"weight": 1.0}) for entry in sources.plan.models)
        plan = sources.plan.model_copy(update=told | {"models": entries})
        tried = Sources(plan, sources.heads, sources.owner, sources.card, sources.name, sources.limit)
        with tempfile.TemporaryDirectory(dir=work) as folder:
            model = model_of(tried, merged_trunk(tried, Path(folder) / "merged", threads=threads))
        scores = model.evaluate(suite, split="dev")
        utility = sum(
            each.value * (1 if model.heads[each.task].metric.higher_is_better else -1) for each in scores
        )
        said = ", ".join(f"{key} {value:g}" for key, value in options.items())
        if found is None or utility > found[0]:
            found = utility, f"{method} ({said})" if said else method, model
    assert found is not None
    return found[1], _by_task(found[2].evaluate(suite))


def data_of(sources: Sources, suite: Suite) -> dict[str, TaskData]:
    """The data of every task of the models, with the label spaces that they were fitted with."""
    for task in sources.heads:
        if task not in suite.tasks:
            raise ConfigError(f"the data have no task {task!r}, which one of the models has")
    return {task: TaskData(head.task, suite.tasks[task].splits) for task, head in sources.heads.items()}


def merged_by_data(
    sources: Sources,
    tasks: Mapping[str, TaskData],
    work: Path,
    threads: int = 1,
    progress: engine.Progress | None = None,
) -> Backbone:
    """The merged trunk of a plan of any method: learned from train rows, or by statistics of them that the
    plan does not have, or without data."""
    recipe, plan = sources.plan.learned, sources.plan
    if recipe is not None:
        assert plan.base is not None
        trunk = sources.backbone(plan.base)
        models = [AsTorch(Checkpoint(entry.path)) for entry in plan.models]
        rows = {task: _rows(trunk, sources.heads[task], each) for task, each in tasks.items()}
        base = AsTorch(Checkpoint(plan.base))
        learn(plan.method, recipe, base, models, trunk, sources.heads, rows)
        return trunk
    needed = {method.statistics for method, _ in plan.ways() if method.statistics}
    for kind in needed:
        entries = []
        for number, entry in enumerate(plan.models):
            if entry.statistics is None:
                heads = {task: h for task, h in sources.heads.items() if sources.owner[task] == number}
                backbone = sources.backbone(entry.path)
                rows = {task: _rows(backbone, head, tasks[task]) for task, head in heads.items()}
                file = entry.path / f"{kind}.safetensors"
                save_file(statistics_of(kind, backbone, heads, rows), file)
                entry = entry.model_copy(update={"statistics": file})
            entries.append(entry)
        plan = plan.model_copy(update={"models": tuple(entries)})
    told = Sources(plan, sources.heads, sources.owner, sources.card, sources.name, sources.limit)
    return merged_trunk(told, Path(tempfile.mkdtemp(dir=work)) / "merged", threads=threads, progress=progress)


def _rows(backbone: Backbone, head: Head, data: TaskData) -> TaskRows:
    return TaskRows.of(backbone, type(head), data.task, data.splits["train"])


def originals(plan: Plan, suite: Suite) -> dict[str, Score]:
    """The test scores of every task of the models, by the models themselves."""
    found: dict[str, Score] = {}
    for entry in plan.models:
        found |= _by_task(Model.load(entry.path).evaluate(suite))
    return found


def _recalibrated(model: Model, task: str, data: TaskData) -> Head:
    """The head of a task as it is best on dev: as it was, or solved on what its backbone is now."""
    backbone = model.backbone_of(task)
    head = model.heads[task]
    forms = {request.form for request in head.requests}

    def reads(own: Backbone, form: Form) -> list[Read]:
        return [*single(own, form), *(head.reads if form in forms else ())]

    return settled(backbone, data, head, suite_features(backbone, [data], reads)).head


def _by_task(scores: list[Score]) -> dict[str, Score]:
    return {score.task: score for score in scores}
