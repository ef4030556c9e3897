"""From a suite to a model: heads solved for on the frozen backbone, then the backbone tuned for all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cache import FeatureCache
from taskheads.errors import ConfigError
from taskheads.model.evaluation import Score
from taskheads.model.features import Progress
from taskheads.model.model import Model
from taskheads.model.saving import check_writable
from taskheads.tasks.suite import Suite, load_suite
from taskheads.training.held_out import with_dev
from taskheads.training.joint.editing import TUNES, asked_edits, edits_for, tune_edits
from taskheads.training.joint.outcome import Outcome
from taskheads.training.joint.precision import check_bits
from taskheads.training.joint.recipe import Recipe
from taskheads.training.joint.sharding import check_shard
from taskheads.training.joint.taking import take_tuned
from taskheads.training.joint.tuning import Stages, Watch, tune_alone, tune_shared
from taskheads.training.joint.workers import Workers
from taskheads.training.solving import Solved, solve
from taskheads.training.telling import report_of


def fit(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | Suite,
    *,
    out: str | Path | None = None,
    backbone: str | Backbone | None = None,
    tune: str | None = None,
    training: Mapping[str, Any] | Recipe | None = None,
    resume: bool = False,
    seed: int | None = None,
    solved: Solved | None = None,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Model:
    """One model of all tasks, chosen on dev and judged on test.

    Parameters
    ----------
    source: a suite's YAML file, the same as a mapping, data files to be understood from their columns, or a
        loaded `Suite`.
    out: a folder to save the model to. While a backbone is tuned, the run is kept in `OUT.training` beside
        it.
    backbone: "minilm", a folder, a Hub name or a loaded `Backbone`, in place of what the source says.
    tune: in place of what the training says, which by itself is "auto". "frozen" solves for a head of each
        task on the frozen backbone; "full" also fine-tunes the backbone for all tasks together; "auto" does
        both; the name of an edit ("lora", "ia3", ...; see `taskheads methods`) leaves the backbone as it is,
        and each task that the method is for learns what it changes there. But for "full", each task keeps
        what is best for it on dev, so that none is worse off than it was alone. A task whose suite entry says
        `edit` has that edit tried, beside what `tune` says.
    training: how to tune, over what the source says; see `Recipe`.
    resume: go on with the run that is kept beside `out`; without, such a run is begun anew.
    seed: of training and of the bootstrap intervals, in place of what the source says.
    solved: what `solve` made of this suite on this backbone, where that was done before.
    cache: where features of the frozen backbone are looked up and kept; None computes them afresh.
    progress: called with (stage, done, total). watch: called with a tuning stage's name and its course.

    Returns
    -------
    The model; its test scores are in `card["tasks"][name]["test"]`, and `report` is the data of a report.

    Raises
    ------
    ConfigError, DataError, BackboneError, ModelError: before any training starts, in one sentence.
    TrainingError: the training stopped; the sentence says what of it is kept.
    """
    if out is not None:
        check_writable(Path(out))
    if resume and out is None:
        raise ConfigError("to resume, say which model: its run is kept beside `out`")
    # Of several processes all have the model in the end, and the first one writes it.
    workers = Workers.here()
    first = workers.rank == 0
    suite = _suite(source, backbone if isinstance(backbone, str) else None, seed)
    recipe = Recipe.of(suite.training, **Recipe.of(training).model_dump(exclude_unset=True))
    recipe.grouped(suite.tasks)
    tune = tune or recipe.tune
    asked = asked_edits(suite, tune)
    if asked and tune == "frozen":
        raise ConfigError(f"task {next(iter(asked))!r} asks for an edit, and nothing is tuned under frozen")
    if not isinstance(backbone, Backbone):
        backbone = Backbone.load(suite.backbone)
    check_bits(backbone, tune, alone=recipe.alone)
    card = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "backbone": backbone.name,
        "seed": suite.seed,
        "sources": [] if isinstance(source, Suite) else [_kept(source)],
        "tasks": {},
    }
    model = Model(backbone, {}, card)
    if asked:  # what cannot be made is known before anything is computed
        edits_for(backbone, asked)
    check_shard(recipe, backbone, asked, workers)
    if solved is None:
        solved = solve(backbone, suite, cache=cache, progress=progress)
    solved.put_into(model)
    tasks = {name: with_dev(data) for name, data in suite.tasks.items()}
    made = Outcome.of_frozen(tasks, solved.fitted, solved.features)
    if tune != "frozen":
        kept = None if out is None else Path(f"{out}.training")
        if kept is not None and not resume and first:
            shutil.rmtree(kept, ignore_errors=True)
        workers.wait()
        how = Stages(tasks, solved.fitted, recipe, suite.seed, kept, watch, made)
        if tune in TUNES:
            for stages in how.by_groups():
                tune_shared(backbone, solved.features, stages, full=tune == "full")
        if asked:
            tune_edits(backbone, solved.features, how, asked)
        if recipe.alone:
            tune_alone(backbone, solved.features, how)
        take_tuned(model, suite, made)
    made.stages[:0] = solved.stages
    model.report = report_of(model, tasks, made, tune)
    workers.wait()
    if out is not None and first:
        model.save(out)
        shutil.rmtree(f"{out}.training", ignore_errors=True)
    return model


def add(
    model: Model,
    source: Any,
    *,
    tune: str = "frozen",
    training: Mapping[str, Any] | Recipe | None = None,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> list[str]:
    """Fit the tasks of `source` (as `fit` takes it) into a model, on its backbone as it is; every other task
    stays bit for bit.

    tune: "frozen", or the name of an edit that each new task learns and keeps if it is better for it; a task
        whose suite entry says `edit` has that edit tried. training: how, over what the source says.

    Returns the names of the new tasks. Raises ConfigError when the model has one of that name already, and
    for a way of tuning that changes the backbone or cuts it up.
    """
    suite = _suite(source, None, model.card["seed"])
    for name in suite.tasks:
        if name in model.heads:
            raise ConfigError(f"the model has a task {name!r} already; remove it first, or name the new one")
    if tune in ("full", "auto"):
        raise ConfigError(f"tune = {tune!r} changes the backbone for all tasks: only fit can do that")
    asked = asked_edits(suite, tune)
    edits_for(model.backbone, asked)
    recipe = Recipe.of(suite.training, **Recipe.of(training).model_dump(exclude_unset=True))
    if asked:
        check_shard(recipe, model.backbone, asked, Workers.here())
    solved = solve(model.backbone, suite, seed=model.card["seed"], cache=cache, progress=progress)
    solved.put_into(model)
    if not isinstance(source, Suite):
        model.card["sources"].append(_kept(source))
    if asked:
        tasks = {name: with_dev(data) for name, data in suite.tasks.items()}
        made = Outcome.of_frozen(tasks, solved.fitted, solved.features)
        how = Stages(tasks, solved.fitted, recipe, suite.seed, None, watch, made)
        tune_edits(model.backbone, solved.features, how, asked)
        take_tuned(model, suite, made)
    return list(suite.tasks)


def _suite(source: Any, backbone: str | None, seed: int | None) -> Suite:
    return source if isinstance(source, Suite) else load_suite(source, backbone=backbone, seed=seed)


def _kept(source: Any) -> Any:
    """The source as `load_suite` takes it again from any working folder: where data is, whole paths."""
    if not isinstance(source, Mapping):
        return _absolute(source)
    return {
        key: _absolute(value) if key == "data" else _kept(value) if isinstance(value, Mapping) else value
        for key, value in source.items()
    }


def _absolute(data: Any) -> Any:
    if isinstance(data, str | Path):
        return str(Path(data).resolve()) if Path(data).exists() else str(data)
    if isinstance(data, Mapping):
        return {split: _absolute(each) for split, each in data.items()}
    return [_absolute(each) for each in data]


__all__ = ["Score", "add", "fit"]
