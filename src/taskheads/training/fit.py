"""From a suite to a model: the heads of all tasks on one frozen backbone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cache import FeatureCache
from taskheads.backbone.reads import Read
from taskheads.errors import ConfigError
from taskheads.heads import head_for
from taskheads.model.evaluation import COSINE, Score, commonest, compared
from taskheads.model.features import FrozenFeatures, Progress
from taskheads.model.model import Model
from taskheads.model.saving import check_writable
from taskheads.tasks.suite import Suite, load_suite
from taskheads.tasks.task import TaskData
from taskheads.training.candidates import candidates
from taskheads.training.frozen import Fitted, fit_head


def fit(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | Suite,
    *,
    out: str | Path | None = None,
    backbone: str | Backbone | None = None,
    seed: int | None = None,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Model:
    """One model of all tasks: a head for each on the frozen backbone, chosen on dev and judged on test.

    Parameters
    ----------
    source: a suite's YAML file, the same as a mapping, data files to be understood from their columns, or a
        loaded `Suite`.
    out: a folder to save the model to.
    backbone: "minilm", a folder, a Hub name or a loaded `Backbone`, in place of what the source says.
    seed: of the bootstrap intervals, in place of what the source says.
    cache: where features of the frozen backbone are looked up and kept; None computes them afresh.
    progress: called with (stage, done, total).

    Returns
    -------
    The model; its test scores are in `card["tasks"][name]["test"]`.

    Raises
    ------
    ConfigError, DataError, BackboneError, ModelError: before any training starts, in one sentence.
    """
    if out is not None:
        check_writable(Path(out))
    suite = _suite(source, backbone if isinstance(backbone, str) else None, seed)
    if not isinstance(backbone, Backbone):
        backbone = Backbone.load(suite.backbone)
    card = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "backbone": backbone.name,
        "seed": suite.seed,
        "sources": [],
        "tasks": {},
    }
    model = Model(backbone, {}, card)
    _fit_into(model, suite, source, cache, progress)
    if out is not None:
        model.save(out)
    return model


def add(
    model: Model,
    source: Any,
    *,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Fit the tasks of `source` (as `fit` takes it) into a model; every other task stays bit for bit.

    Returns the names of the new tasks. Raises ConfigError when the model has one of that name already.
    """
    suite = _suite(source, None, model.card["seed"])
    for name in suite.tasks:
        if name in model.heads:
            raise ConfigError(f"the model has a task {name!r} already; remove it first, or name the new one")
    _fit_into(model, suite, source, cache, progress)
    return list(suite.tasks)


def _suite(source: Any, backbone: str | None, seed: int | None) -> Suite:
    return source if isinstance(source, Suite) else load_suite(source, backbone=backbone, seed=seed)


def _fit_into(
    model: Model, suite: Suite, source: Any, cache: FeatureCache | None, progress: Progress | None
) -> None:
    started = time.perf_counter()
    backbone = model.backbone
    features = FrozenFeatures(
        backbone,
        [
            (request, examples)
            for data in suite.tasks.values()
            for examples in data.splits.values()
            for request in [*head_for(data.task).requests_of(data.task), *compared(data.task)]
        ],
        lambda form: _reads(backbone, form),
        cache=cache,
        progress=progress,
    )
    read_in = time.perf_counter() - started
    heads, cards = {}, {}
    for done, (name, data) in enumerate(suite.tasks.items()):
        if progress is not None:
            progress("solving", done, len(suite.tasks))
        fitted = fit_head(backbone, data, features)
        heads[name] = fitted.head
        cards[name] = _card(data, fitted)
    rows = {name: data.splits["test"] for name, data in suite.tasks.items() if len(data.splits["test"])}
    fresh = Model(backbone, heads, {"seed": model.card["seed"], "tasks": cards})
    for score in fresh.scores(rows, features):
        cards[score.task]["test"] = score.to_json()
    model.heads.update(heads)
    model.card["tasks"].update(cards)
    if not isinstance(source, Suite):
        model.card["sources"].append(_kept(source))
    model.card["seconds"] = {
        "features": round(read_in, 2),
        "heads": round(time.perf_counter() - started - read_in, 2),
    }
    if progress is not None:
        progress("solving", len(suite.tasks), len(suite.tasks))


def _reads(backbone: Backbone, form: Any) -> list[Read]:
    reads = {read for chosen in candidates(backbone, form) for read in chosen}
    return sorted(reads | ({COSINE} if form == "text" else set()))


def _card(data: TaskData, fitted: Fitted) -> dict[str, Any]:
    task, train = data.task, data.splits["train"]
    return {
        "kind": task.kind,
        "inputs": list(task.inputs),
        "label": task.label,
        "metric": task.metric,
        "labels": _counts(data),
        "rows": {split: len(examples) for split, examples in data.splits.items()},
        "commonest": commonest(task, train.targets),
        "understood": data.reasons,
        "reads": [str(read) for read in fitted.head.reads],
        "solver": fitted.solver,
        "penalty": fitted.penalty,
        "dev": fitted.dev,
        "seconds": round(fitted.seconds, 3),
    }


def _counts(data: TaskData) -> dict[str, int]:
    """How often each label occurs in train; empty for numbers and for search."""
    if not data.task.labels:
        return {}
    counts: Counter = Counter()
    for target in data.splits["train"].targets:
        counts.update(map(str, target) if isinstance(target, list) else [str(target)])
    return {str(label): counts[str(label)] for label in data.task.labels}


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
