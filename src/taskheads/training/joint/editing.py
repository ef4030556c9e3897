"""Tuning by edits: the backbone stays as it is, and each task learns what it changes there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, edit_class, edit_methods, made
from taskheads.edits.edited import Edited, frozen
from taskheads.errors import ConfigError
from taskheads.methods import card_of
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.suggest import did_you_mean
from taskheads.tasks.suite import Suite
from taskheads.training.joint.outcome import Candidate
from taskheads.training.joint.resuming import own_randomness
from taskheads.training.joint.starting import starting_heads
from taskheads.training.joint.tuning import Stages, smaller
from taskheads.training.joint.workers import Workers

TUNES = ("frozen", "full", "auto")


class Asked(NamedTuple):
    """The method of an edit, and its options."""

    method: str
    options: Mapping[str, Any]


def asked_edits(suite: Suite, tune: str) -> dict[str, Asked]:
    """Which tasks of a suite have an edit tried, by what is said of each, or else by `tune`, where that
    method is for tasks of their kind.

    Raises ConfigError for an unknown name, and for a method that is for none of the tasks.
    """
    if tune not in TUNES:
        known = [*TUNES, *edit_methods()]
        if tune not in known:
            near = did_you_mean(tune, known)
            raise ConfigError(f"tune = {tune!r}{near}: it is {', '.join(TUNES)} or the name of an edit")
    asked = {}
    for task, data in suite.tasks.items():
        if data.edit is not None:
            asked[task] = Asked(*data.edit)
        elif tune not in TUNES and serves(tune, data.task.kind):
            asked[task] = Asked(tune, {})
    if tune not in TUNES and not asked:
        kinds = " or ".join(card_of(edit_class(tune)).applies_to)
        raise ConfigError(f"{tune} is for tasks of the kind {kinds}, and there is none")
    return asked


def serves(method: str, kind: str) -> bool:
    """Whether an edit is for tasks of this kind, by its card."""
    return not {"any", kind}.isdisjoint(card_of(edit_class(method)).applies_to)


def edits_for(backbone: Backbone, asked: Mapping[str, Asked]) -> dict[str, Edit]:
    """A new edit for each task, or for all tasks that asked for the same, where the method shares one.

    Raises ConfigError for an unknown method or option.
    """
    shared: dict[str, list[str]] = {}
    for task, (method, options) in asked.items():
        shared.setdefault(repr((method, sorted(options.items()))), []).append(task)
    edits: dict[str, Edit] = {}
    for tasks in shared.values():
        method, options = asked[tasks[0]]
        groups = [tasks] if edit_class(method).shared else [[task] for task in tasks]
        for group in groups:
            edits |= dict.fromkeys(group, made(method, backbone, group, options))
    return {task: edits[task] for task in asked}


def tune_edits(
    backbone: Backbone, features: FrozenFeatures, stages: Stages, asked: Mapping[str, Asked]
) -> None:
    """Train an edit for each of these tasks, all tasks in the same batches, and choose for each of them on
    dev: its edit, or what it has kept so far.

    The heads begin as the solutions on the frozen backbone's last layer, and are settled anew when the edits
    have learned. A method that trains in several stages shares the minutes among them.
    """
    if stages.recipe.balance != "none":
        raise ConfigError("`balance` is about weights that tasks share, and an edit leaves those as they are")
    methods = {method for method, _ in asked.values()}
    name = methods.pop() if len(methods) == 1 else "edits"
    heads = starting_heads(backbone, {task: stages.tasks[task] for task in asked}, features)
    with own_randomness(stages.seed):
        edits = edits_for(backbone, asked)
    stage, recipe = name, smaller(stages.recipe, 1 / max(edit.stages for edit in edits.values()))
    while True:
        edited = Edited(backbone, edits)
        with frozen(backbone):
            about = {task: [edit.method, edit.options] for task, edit in edits.items()}
            with stages.made.stage(stage):
                course = stages.begin(stage, recipe, edited, heads, about).train()
        following = _following(backbone, edits, stages.seed)
        if following is None:
            break
        edits, stage = following, f"{stage}, then"
    sizes = {task: _size(edit) for task, edit in edits.items()}
    for edit in edits.values():
        edit.eval().requires_grad_(False)
    found = Candidate(None, *stages.settle(name, edited, heads), course, edits, sizes)
    stages.made.candidates[name] = found
    for task, fitted in found.fitted.items():
        before = stages.made.candidates[stages.made.kept[task]].fitted[task]
        if fitted.utility > before.utility:
            stages.made.kept[task] = name


def _size(edit: Edit) -> dict[str, int]:
    """One task's share of an edit: parameters that learn, and bytes of all that is saved."""
    learning = sum(each.numel() for each in edit.parameters() if each.requires_grad)
    saved = sum(each.nbytes for each in edit.state_dict().values())
    return {"parameters": learning // len(edit.tasks), "bytes": saved // len(edit.tasks)}


def _following(backbone: Backbone, edits: Mapping[str, Edit], seed: int) -> dict[str, Edit] | None:
    """The edits of the next stage, those that have none as they are; None when no edit has one."""
    with own_randomness(seed):
        after = {edit: edit.following(backbone) for edit in dict.fromkeys(edits.values())}
    if not any(after.values()):
        return None
    for edit in after.values():
        if edit is not None:  # what it was made from may have been seen by one process alone
            Workers.here().agree(edit.state_dict().values())
    return {task: after[edit] or edit for task, edit in edits.items()}
