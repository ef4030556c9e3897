"""What a fit found out, as the data of its report."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.model.evaluation import score
from taskheads.model.findings import findings
from taskheads.model.model import Model
from taskheads.sharing.similarity import cosines, suggested_groups
from taskheads.tasks.task import TaskData
from taskheads.training.joint.alike import tuned_alike
from taskheads.training.joint.course import Course
from taskheads.training.joint.outcome import SHARED, Outcome


def report_of(model: Model, tasks: Mapping[str, TaskData], made: Outcome, tune: str) -> dict[str, Any]:
    """The data of `taskheads.report.page.page`: JSON-able; what was not measured is None.

    Tasks have their scores on test, one for each way that was tried, what the answers of the kept head tell,
    and dev scores; curves are of the run that all tasks shared, of their edits where there was none;
    similarity is the cosine of the tasks' gradients there, and that of what their backbones make of the same
    rows: of those tuned for each task alone where there are any, else of those that tasks keep.
    """
    edited = next((each for each in made.candidates.values() if each.edits), None)
    shared = made.candidates.get(SHARED, edited)
    return {
        "title": ", ".join(tasks) if len(tasks) < 4 else f"{len(tasks)} tasks on one backbone",
        "created": model.card["created"],
        "backbone": model.card["backbone"],
        "hardware": machine(),
        "tune": tune,
        "stages": made.stages,
        "tasks": {name: _task(model, data, made) for name, data in tasks.items()},
        "curves": None if shared is None else _curves(shared.course),
        "similarity": None if shared is None else _similarity(shared.course, _backbones(model, made), tasks),
    }


def machine() -> str:
    """What the seconds of a report were measured on."""
    kind = platform.processor() or platform.machine()
    return f"{kind}, {os.cpu_count()} cores, torch {torch.__version__}"


def _task(model: Model, data: TaskData, made: Outcome) -> dict[str, Any]:
    name, rows = data.task.name, data.splits["test"]
    card, kept, ways = model.card["tasks"][name], made.candidates[made.kept[name]], _ways(made, name)
    told: dict[str, Any] = {
        "kind": data.task.kind,
        "metric": data.task.metric,
        "rows": card["rows"],
        "labels": [str(label) for label in data.task.labels],
        "kept": made.kept[name].partition(" ")[0],
        "dev": {way: made.candidates[full].fitted[name].dev for way, full in ways.items()},
        "gain": card.get("gain"),
    }
    if not len(rows):
        return told
    # The card has the scores of the frozen head and of what was kept.
    judged = {"frozen": card.get("frozen", card["test"]), told["kept"]: card["test"]}
    for way, full in ways.items():
        if way not in judged:
            each = made.candidates[full]
            made_of = score(each.fitted[name].head, rows, each.answered[name][1], None, model.card["seed"])
            judged[way] = made_of.to_json()
    scores: dict[str, Any] = {"majority": {"value": card["test"]["baseline"]}}
    scores |= {way: {key: judged[way][key] for key in ("value", "low", "high")} for way in ways}
    found = findings(kept.fitted[name].head, *kept.answered[name], rows, factor=kept.fitted[name].factor)
    return told | {"scores": scores, "others": card["test"]["others"], "findings": found}


def _ways(made: Outcome, task: str) -> dict[str, str]:
    """What was tried for a task: "frozen", "shared", "private", "alone", and each candidate's whole name."""
    return {name.partition(" ")[0]: name for name, each in made.candidates.items() if task in each.fitted}


def _curves(course: Course) -> dict[str, Any]:
    return {"lr": course.lr, "loss": course.losses, "dev": course.dev, "tokens_per_second": course.rates}


def _backbones(model: Model, made: Outcome) -> dict[str, Backbone]:
    alone = {name: made.candidates.get(f"alone {name}") for name in model.heads}
    return {
        name: model.backbone_of(name) if each is None or each.branch is None else each.branch.backbone
        for name, each in alone.items()
    }


def _similarity(
    course: Course, backbones: Mapping[str, Backbone], tasks: Mapping[str, TaskData]
) -> dict[str, Any] | None:
    """The groups are those that gradients suggest, where they are known."""
    gradient = cosines(torch.tensor(course.gramian, dtype=torch.float64)) if course.gramian else None
    found = {"gradient": gradient, "representation": tuned_alike(backbones, tasks)}
    told = [each for each in found.values() if each is not None]
    if not told:
        return None
    names = list(tasks)
    groups = [[names[at] for at in group] for group in suggested_groups(told[0])]
    rounded = {name: None if each is None else np.round(each, 4).tolist() for name, each in found.items()}
    return {"tasks": names, **rounded, "groups": groups}
