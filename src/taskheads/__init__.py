"""One shared transformer, many task heads.

    import taskheads as th

    model = th.fit("tasks.yaml", out="runs/first")
    model.predict(["book a table for two"])
    model.evaluate()
    th.add(model, "new_task.jsonl"); model.remove("spam"); model.save("runs/first")
    model = th.load("runs/first")

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pathlib import Path

    from taskheads.backbone.backbone import Backbone
    from taskheads.backbone.cache import FeatureCache
    from taskheads.backbone.precision import Precision
    from taskheads.errors import TaskheadsError
    from taskheads.model.evaluation import Score
    from taskheads.model.model import Model
    from taskheads.tasks.suite import Suite, load_suite
    from taskheads.training.fit import add, fit

__all__ = [
    "Backbone",
    "FeatureCache",
    "Model",
    "Score",
    "Suite",
    "TaskheadsError",
    "add",
    "fit",
    "load",
    "load_suite",
]

_HOMES = {
    "Backbone": "taskheads.backbone.backbone",
    "FeatureCache": "taskheads.backbone.cache",
    "Model": "taskheads.model.model",
    "Score": "taskheads.model.evaluation",
    "Suite": "taskheads.tasks.suite",
    "TaskheadsError": "taskheads.errors",
    "add": "taskheads.training.fit",
    "fit": "taskheads.training.fit",
    "load_suite": "taskheads.tasks.suite",
}


def load(folder: str | Path, *, precision: Precision | None = None) -> Model:
    """The model that `Model.save` wrote to a folder, its backbone in `precision` (float32, bfloat16 or int8)
    if that is said, else as it was saved. Raises ModelError when it is not whole."""
    from taskheads.model.model import Model

    return Model.load(folder, precision=precision)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
