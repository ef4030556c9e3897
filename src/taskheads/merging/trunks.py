"""taskheads models become one: their trunks are merged, their heads are kept, all tasks are answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.branching import Branch
from taskheads.backbone.composed import Composed
from taskheads.backbone.forms import Dense, Form
from taskheads.errors import ConfigError, ModelError
from taskheads.heads import Head
from taskheads.merging import engine
from taskheads.merging.files.as_torch import AsTorch
from taskheads.merging.files.checkpoint import Checkpoint
from taskheads.merging.plan import Entry, Plan
from taskheads.merging.vectors import TaskVector, as_low_rank, as_masked, as_quantised
from taskheads.model.model import Model
from taskheads.model.saving import MANIFEST

_SCORES = ("test", "dev")  # of a task's card: what another trunk reached
_MERGED = "merged"
_RANK = 16


@dataclass(frozen=True)
class Sources:
    """taskheads models, laid out for a merge of their trunks.

    plan: that of the user, with the folders of the trunks alone. heads: all of them, by task. owner: which
    model each task is of. card: the data cards as one. name, limit: those of the first model's backbone.
    """

    plan: Plan
    heads: dict[str, Head]
    owner: dict[str, int]
    card: dict[str, Any]
    name: str
    limit: int | None

    def backbone(self, folder: Path) -> Backbone:
        """A trunk from its folder, under the name that the models' has."""
        backbone = Backbone.load(folder, limit=self.limit)
        backbone.name = self.name
        return backbone


def laid_out(plan: Plan, work: Path) -> Sources:
    """Write each model's trunk to a folder of its own in `work`, loading one model at a time.

    The base is a Hugging Face folder or a taskheads model. Raises ConfigError where two models have a task of
    the same name, ModelError for a model with edits or whose tasks read different trunks.
    """
    places: list[Entry] = []
    heads: dict[str, Head] = {}
    owner: dict[str, int] = {}
    card: dict[str, Any] = {"sources": [], "tasks": {}}
    name, limit = "", None
    for number, entry in enumerate(plan.models):
        model = Model.load(entry.path)
        for task in model.heads.keys() & heads.keys():
            raise ConfigError(f"{entry.path} and a model before it both have a task {task!r}: remove one")
        trunk = _trunk(model, entry.path)
        trunk.save(work / str(number))
        if not number:
            name, limit = trunk.name, trunk.limit
        places.append(entry.model_copy(update={"path": work / str(number)}))
        heads |= model.heads
        owner |= dict.fromkeys(model.heads, number)
        card = _joined(card, model.card)
    base = None
    if plan.base is not None:
        base = work / "base"
        _base(plan.base).save(base)
    return Sources(
        plan.model_copy(update={"models": tuple(places), "base": base}), heads, owner, card, name, limit
    )


def merged_trunk(
    sources: Sources, folder: Path, *, threads: int = 1, progress: engine.Progress | None = None
) -> Backbone:
    """The trunk that a static plan makes, in a folder that is not there yet."""
    folder.mkdir()
    engine.merge_weights(sources.plan, folder, threads=threads, progress=progress)
    engine.copy_beside(sources.plan, folder)
    return sources.backbone(folder)


def model_of(sources: Sources, trunk: Backbone) -> Model:
    """All heads on a merged trunk, and, where the plan says `keep`, each task on its own weights: those of
    its model, restored from a difference that is stored as the plan says, over one shared copy.

    masks: the base and the merged task vector, and of this a bit for each element and model (TALL masks,
    `taskheads.merging.vectors.as_masked`). low_rank, quantised: the merged trunk, and what each model has
    beyond it, its matrices of rank `plan.rank` (16), or in a byte for each element.
    """
    keep = sources.plan.keep
    if keep is None:
        return Model(trunk, sources.heads, sources.card)
    names = set(dict(trunk.model.named_parameters()))
    own = [Checkpoint(entry.path) for entry in sources.plan.models]
    merged = {name: each.detach() for name, each in trunk.model.named_parameters()}
    models = [AsTorch({name: each[name] for name in each if name in names}) for each in own]
    branches: dict[str, Branch] = {}
    below = ""
    stored: Sequence[Mapping[str, Form]]
    if keep == "masks":
        assert sources.plan.base is not None
        base = AsTorch(Checkpoint(sources.plan.base))
        zero = {name: base[name] for name in merged}
        shared = TaskVector.between(merged, zero)
        trunk, below = sources.backbone(sources.plan.base), _MERGED
        forms = {name: Dense(shared[name]) for name in shared}
        branches[_MERGED] = Branch(Composed(trunk, forms))
        stored = as_masked([TaskVector.between(each, zero) for each in models], TaskVector.stored(forms))
    else:
        beyond = [TaskVector.between(each, merged) for each in models]
        rank = sources.plan.rank or _RANK
        stored = [as_low_rank(each, rank) if keep == "low_rank" else as_quantised(each) for each in beyond]
    for number, each in enumerate(stored):
        branches[f"model {number + 1}"] = Branch(Composed(trunk, each), below)
    branch_of = {task: f"model {number + 1}" for task, number in sources.owner.items()}
    return Model(trunk, sources.heads, sources.card, branches, branch_of)


def _trunk(model: Model, path: Path) -> Backbone:
    """What all heads of a model read."""
    if model.edits:
        task = next(iter(model.edits))
        raise ModelError(
            f"{path}: the task {task!r} has an edit ({model.edits[task].method}); trunks are merged"
        )
    trunks = {id(model.backbone_of(task)): model.backbone_of(task) for task in model.heads}
    if len(trunks) > 1:
        raise ModelError(f"{path}: its tasks read {len(trunks)} different trunks; merge models that have one")
    trunk = next(iter(trunks.values()), model.backbone)
    if isinstance(trunk, Composed):
        raise ModelError(f"{path}: its weights are stored as differences; merge the models that it came from")
    return trunk


def _base(path: Path) -> Backbone:
    return Model.load(path).backbone if (path / MANIFEST).exists() else Backbone.load(path)


def _joined(card: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The data cards of two models as one; what is not of a task or a source is the first one's."""
    tasks = {
        name: {key: value for key, value in about.items() if key not in _SCORES}
        for name, about in other["tasks"].items()
    }
    sources = [*card["sources"], *(each for each in other["sources"] if each not in card["sources"])]
    return {**other, **card, "sources": sources, "tasks": {**card["tasks"], **tasks}}
