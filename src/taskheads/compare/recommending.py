"""The recommended way as a suite file that `taskheads fit` takes as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskheads.compare.bench import Result
from taskheads.compare.ways import Way
from taskheads.edits.edit import edit_class
from taskheads.tasks.suite import Suite, declared_in
from taskheads.training.joint.editing import TUNES


def recommended(source: Any, suite: Suite, way: Way, result: Result) -> str:
    """The text of the file: the source's suite with whole paths, trained in this way for as many steps.

    A loaded `Suite` does not know where its data was: of that, the file has all but the `data`.
    """
    import yaml

    said = _said(source, suite)
    applied = way.applied(suite)
    training = dict(applied.training)
    if result.steps:
        training |= {"steps": result.steps * _stages(way, training), "minutes": None}
    for name, entry in said["tasks"].items():
        entry.pop("edit", None)
        # An entry that names no label has become a task for each label, called after it.
        mine = (each.edit for task, each in applied.tasks.items() if f"{task}.".startswith(f"{name}."))
        if (edit := next(mine, None)) is not None:
            entry["edit"] = {edit[0]: edit[1]}
    here = Path(suite.backbone)
    backbone = str(here.resolve()) if here.is_dir() else suite.backbone
    whole = {**said, "backbone": backbone, "seed": result.seed, "training": training}
    first = "say each task's `data` first" if isinstance(source, Suite) else "as it is"
    head = f"# {way.name}, which `taskheads compare` recommends; for `taskheads fit`, {first}."
    return f"{head}\n{yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)}"


def _said(source: Any, suite: Suite) -> dict[str, Any]:
    """What the source declares, with whole paths."""
    if isinstance(source, Suite):
        return {"tasks": {name: {} for name in suite.tasks}}
    declared = declared_in(source)
    said = declared.config.model_dump(exclude_unset=True, exclude={"training"})
    for each in (said, *said["tasks"].values()):
        if each.get("data"):
            each["data"] = _whole(each["data"], declared.base)
    return said


def _whole(data: dict[str, list[str]], base: Path) -> Any:
    """Files by split, or of no split, from wherever the file will be; a data set of the Hub by its name."""
    found = {
        split: [str((base / each).resolve()) if (base / each).exists() else each for each in paths]
        for split, paths in data.items()
    }
    return found.get("", found)


def _stages(way: Way, training: Mapping[str, Any]) -> int:
    """How many trainings share the steps: the stages of an edit, the groups of tasks."""
    if way.training["tune"] in TUNES:
        return max(1, len(training.get("groups", ())))
    return edit_class(way.method).stages
