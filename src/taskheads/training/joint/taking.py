"""Into the model: what each task keeps of what was tried, its scores, and what it gained."""

from __future__ import annotations

from typing import Any

from taskheads.model.evaluation import paired, score
from taskheads.model.model import Model
from taskheads.tasks.suite import Suite
from taskheads.training.joint.outcome import SHARED, Outcome
from taskheads.training.trial import Fitted


def choice_of(fitted: Fitted) -> dict[str, Any]:
    """What the data card tells of a head that was chosen on dev."""
    return {
        "reads": [str(read) for read in fitted.head.reads],
        "solver": fitted.solver,
        "penalty": fitted.penalty,
        "dev": fitted.dev,
    }


def take_tuned(model: Model, suite: Suite, made: Outcome) -> None:
    """Give each task the head that it keeps, the model the branches that they stand on, and the data card the
    scores: of the frozen head as `frozen`, of what is kept as `test`, and `gain`, the second less the first
    with its paired interval."""
    seed = model.card["seed"]
    for name, data in suite.tasks.items():
        card = model.card["tasks"][name]
        way, rows = made.kept[name], data.splits["test"]
        kept, before = made.candidates[way], made.candidates["frozen"]
        card["kept"] = way
        card["tried"] = {
            other: each.fitted[name].dev for other, each in made.candidates.items() if name in each.fitted
        }
        sizes = {other: each.sizes[name] for other, each in made.candidates.items() if name in each.sizes}
        if sizes:
            card["edits"] = sizes
        if way == "frozen":
            continue
        head = model.heads[name] = kept.fitted[name].head
        card |= choice_of(kept.fitted[name])
        if kept.branch is not None:
            model.branch_of[name] = way
        if name in kept.edits:
            model.edits[name] = kept.edits[name]
        if len(rows):
            gain = paired(head, rows, kept.answered[name][1], before.answered[name][1], seed)
            card["gain"] = {"value": gain.value, "low": gain.low, "high": gain.high}
            card["frozen"] = card["test"]
            now = score(head, rows, kept.answered[name][1], None, seed)
            card["test"] = now.to_json() | {"baseline": card["frozen"]["baseline"]}
    for candidate in made.candidates.values():
        for name, edit in candidate.edits.items():
            if model.edits.get(name) is not edit:
                edit.forget(name)
    _settle_branches(model, made)
    model.card["seconds"] |= {stage["name"]: stage["seconds"] for stage in made.stages}


def _settle_branches(model: Model, made: Outcome) -> None:
    """The branches that tasks stand on; one that every task stands on becomes the model's own backbone."""
    grown = {name: each.branch for name, each in made.candidates.items() if each.branch is not None}
    used = set(model.branch_of.values())
    model.branches |= {name: branch for name, branch in grown.items() if name in used}
    if set(model.branch_of) == set(model.heads) and set(model.branch_of.values()) == {SHARED}:
        model.backbone = model.branches.pop(SHARED).backbone
        model.branch_of.clear()
