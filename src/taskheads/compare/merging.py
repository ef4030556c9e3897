"""A merge as a run of a comparison: the models of all tasks, each fine-tuned alone, become one."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.branching import Branch
from taskheads.compare.ways import Way
from taskheads.merging.trunks import Sources
from taskheads.merging.with_heads import data_of, merged_by_data
from taskheads.model.model import Model
from taskheads.tasks.suite import Suite
from taskheads.training.held_out import with_dev
from taskheads.training.joint.outcome import SHARED, Candidate, Outcome, stage_of
from taskheads.training.joint.recipe import Recipe
from taskheads.training.joint.taking import take_tuned
from taskheads.training.joint.tuning import Stages
from taskheads.training.solving import Solved


def merged(way: Way, suite: Suite, backbone: Backbone, solved: Solved, models: Path) -> Model:
    """The model that a merge makes of what `apart` made in the folder `models`, as `fit` would return it.

    A task's head is the better on dev of the one that its own model had and of one solved for on the merged
    backbone; it keeps its head on the frozen backbone where neither is better than that. `solved` are these
    heads, of the suite.

    Raises ConfigError where the method cannot learn from a task, and what `merged_by_data` raises.
    """
    began = time.perf_counter()
    created = datetime.now(UTC).isoformat(timespec="seconds")
    card = {"created": created, "backbone": backbone.name, "seed": suite.seed, "sources": [], "tasks": {}}
    model = Model(backbone, {}, card)
    solved.put_into(model)
    tasks = {name: with_dev(data) for name, data in suite.tasks.items()}
    made = Outcome.of_frozen(tasks, solved.fitted, solved.features)
    how = Stages(tasks, solved.fitted, Recipe.of(suite.training), suite.seed, None, None, made)
    own = Model.load(models)
    with tempfile.TemporaryDirectory(prefix=f"{models.name}.", dir=models.parent) as work:
        plan = way.plan(_trunks(own, backbone, models), _base(models))
        owner = {task: number for number, task in enumerate(own.heads)}
        sources = Sources(plan, own.heads, owner, card, backbone.name, backbone.limit)
        trunk = merged_by_data(sources, data_of(sources, suite), Path(work))
    trunk.model.to(backbone.device)
    made.stages.append(stage_of("merging", time.perf_counter() - began))
    found = Candidate(Branch(trunk), *how.settle(SHARED, trunk, own.heads))
    made.candidates[SHARED] = found
    better = (name for name in tasks if found.fitted[name].utility > solved.fitted[name].utility)
    made.kept |= dict.fromkeys(better, SHARED)
    take_tuned(model, suite, made)
    model.report = {"stages": [*solved.stages, *made.stages], "similarity": None}
    return model


def _trunks(own: Model, base: Backbone, models: Path) -> list[Path]:
    """What merges read, beside the folder of the model: each task's trunk in a folder, and the base. The
    first merge writes them, for all that follow."""
    place = _base(models).parent
    if not place.exists():
        begun = Path(tempfile.mkdtemp(prefix=f"{place.name}.", dir=place.parent))
        base.save(begun / "base")
        for number, task in enumerate(own.heads):
            own.backbone_of(task).save(begun / str(number))
        with suppress(OSError):  # another process was faster
            os.replace(begun, place)
        shutil.rmtree(begun, ignore_errors=True)
    return [place / str(number) for number in range(len(own.heads))]


def _base(models: Path) -> Path:
    return models.with_name(f"{models.name}.trunks") / "base"
