"""How a version comes about: read from a folder, or made of another one and a task or an edit.

What is made of a version shares its backbone, and no tensor of it is touched: requests that were taken
before go on with the old version, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from taskheads.attention import SCORES
from taskheads.edits.edit import Edit
from taskheads.edits.files.shelf import load_edit
from taskheads.errors import ConfigError
from taskheads.heads import EmbedHead, Head
from taskheads.model.model import Model
from taskheads.serve.collection import Collection
from taskheads.serve.dressing import out_of_scope_label
from taskheads.serve.settings import Settings
from taskheads.serve.versions import ByHead, Version, by_head, identity


def load_version(name: str, folder: Path, settings: Settings) -> Version:
    """The model in a folder, warmed. Raises ModelError, ConfigError and DataError, in one sentence."""
    model = Model.load(folder)
    return _ready(name, model, folder, settings, {}, _importance(model, folder))


def with_task(version: Version, task: str, folder: Path, settings: Settings) -> Version:
    """The version with a task, and its edit, from another model's folder; it replaces one of that name.

    Raises ConfigError unless that model has the task, on the same backbone and on no branch of it.
    """
    model, other = version.model, Model.load(folder)
    if task not in other.heads:
        raise ConfigError(f"the model {folder.name!r} has no task {task!r}")
    if other.backbone.fingerprint != model.backbone.fingerprint:
        raise ConfigError(f"the model {folder.name!r} stands on another backbone")
    if task in other.branch_of:
        raise ConfigError(
            f"{task!r} stands on a branch of its own in {folder.name!r}; serve that model beside"
        )
    heads = {**model.heads, task: other.heads[task]}
    edits = {name: edit for name, edit in model.edits.items() if name != task}
    if task in other.edits:
        edits[task] = other.edits[task]
    known = other.card["tasks"].get(task, {})
    return _changed(version, heads, edits, settings, {**model.card["tasks"], task: known})


def without_task(version: Version, task: str, settings: Settings) -> Version:
    """The version without this task."""
    _check_task(version, task)
    model = version.model
    heads = {name: head for name, head in model.heads.items() if name != task}
    edits = {name: edit for name, edit in model.edits.items() if name != task}
    return _changed(version, heads, edits, settings, model.card["tasks"])


def with_edit(version: Version, task: str, folder: Path | None, settings: Settings) -> Version:
    """The version in which a task has the edit in this folder, as `save_edit` wrote it; or none.

    Raises ConfigError where the edit does not serve this task or is for another backbone.
    """
    _check_task(version, task)
    model = version.model
    edits = {name: edit for name, edit in model.edits.items() if name != task}
    if folder is not None:
        edit = load_edit(folder, model.backbone)
        if task not in edit.tasks:
            raise ConfigError(f"the edit {folder.name!r} does not serve {task!r}")
        if task in model.branch_of:
            raise ConfigError(f"{task!r} stands on a branch of its own, which takes no edit")
        edits[task] = edit
    return _changed(version, model.heads, edits, settings, model.card["tasks"])


def _check_task(version: Version, task: str) -> None:
    if task not in version.model.heads:
        raise ConfigError(f"the model {version.name!r} has no task {task!r}")


def _changed(
    version: Version,
    heads: Mapping[str, Head],
    edits: Mapping[str, Edit],
    settings: Settings,
    about: Mapping[str, dict],
) -> Version:
    model = version.model
    card = {**model.card, "tasks": {name: about[name] for name in heads if name in about}}
    branch_of = {
        name: branch for name, branch in model.branch_of.items() if heads.get(name) is model.heads[name]
    }
    made = Model(model.backbone, dict(heads), card, model.branches, branch_of, dict(edits))
    same = {
        task
        for task, head in model.heads.items()
        if heads.get(task) is head and edits.get(task) is model.edits.get(task)
    }
    collections = {task: each for task, each in version.collections.items() if task in same}
    importance = version.importance
    if importance is not None:
        importance = {task: each for task, each in importance.items() if task in same}
    return _ready(version.name, made, version.folder, settings, collections, importance)


def _importance(model: Model, folder: Path) -> dict[str, ByHead] | None:
    """What `taskheads inspect` has left in the folder, if that is of this backbone."""
    path = folder / SCORES
    if not path.is_file():
        return None
    from taskheads.attention.scores import HeadScores

    found = HeadScores.load(path)
    if found.manifest.get("fingerprint") != model.backbone.fingerprint:
        return None
    return {task: by_head(found.of_task(task).values) for task in found.tasks if task in model.heads}


def _ready(
    name: str,
    model: Model,
    folder: Path,
    settings: Settings,
    collections: Mapping[str, Collection],
    importance: Mapping[str, ByHead] | None,
) -> Version:
    """The version, with what its tasks search (`collections` has some of it) and warmed."""
    searched = dict(collections)
    for task, path in settings.collections.items():
        if task not in searched and isinstance(head := model.heads.get(task), EmbedHead):
            searched[task] = Collection.read(path, head, model.backbone_of)
    labels = {task: out_of_scope_label(each, settings.out_of_scope) for task, each in model.tasks.items()}
    known = {task: label for task, label in labels.items() if label is not None}
    version = Version(name, identity(model), model, folder, searched, known, importance)
    version.warm()
    return version
