"""What a request may want of the answers beside what the heads say: abstention, and the out-of-scope flag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskheads.serve.problems import invalid
from taskheads.serve.versions import Version
from taskheads.tasks.suggest import did_you_mean, listed
from taskheads.tasks.task import Task

# How the label is called, in whatever spelling, that says a text is none of the others.
_NAMES = frozenset({"oos", "outofscope", "outofdomain"})


def out_of_scope_label(task: Task, declared: Mapping[str, str]) -> str | None:
    """The label of a classify task that says a text is none of the others, if it has one."""
    if task.kind != "classify":
        return None
    if task.name in declared:
        return declared[task.name]
    named = (str(label) for label in task.labels)
    return next((each for each in named if "".join(filter(str.isalnum, each.lower())) in _NAMES), None)


def thresholds(version: Version, asked: Any, where: str = "abstain_below") -> dict[str, float]:
    """By task, the score below which it abstains: `asked` is a number from 0 to 1 for every task whose
    answers have a score, such numbers by task, or None.

    Raises Problem for anything else, a task that is not there, and one whose answers have no score.
    """
    heads = version.model.heads
    if asked is None:
        return {}
    if not isinstance(asked, dict):
        _check_share(asked, where)
        return {name: asked for name, head in heads.items() if has_score(head.task)}
    for task, share in asked.items():
        if task not in heads:
            raise invalid(where, f"no such task{did_you_mean(task, heads)}; the tasks are {listed(heads)}")
        if not has_score(heads[task].task):
            raise invalid(f"{where}.{task}", "this task's answers have no score to abstain by")
        _check_share(share, f"{where}.{task}")
    return asked


def _check_share(value: Any, field: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise invalid(field, "a number from 0 to 1 is needed, or such numbers by task")


def has_score(task: Task) -> bool:
    """Whether an answer is one label with its probability."""
    return task.kind in ("classify", "ordinal") or (task.kind == "pair" and bool(task.labels))


def dressed(
    answer: Mapping[str, Any], out_of_scope: Mapping[str, str], below: Mapping[str, float]
) -> dict[str, Any]:
    """A row's answers with `out_of_scope` where a task has such a label, and `abstained` where it has a
    threshold; a task that abstains gives no label and no value."""
    found = {}
    for task, each in answer.items():
        if each is not None:
            if task in out_of_scope:
                each = {**each, "out_of_scope": each["label"] == out_of_scope[task]}
            if task in below:
                abstained = each["score"] < below[task]
                hidden = {key: None for key in ("label", "value") if key in each} if abstained else {}
                each = {**each, **hidden, "abstained": abstained}
        found[task] = each
    return found
