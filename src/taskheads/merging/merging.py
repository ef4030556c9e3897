"""A merge of whatever its inputs are: folders of Hugging Face models, taskheads models, adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskheads.errors import ConfigError, ModelError
from taskheads.merging import adapters, engine
from taskheads.merging.plan import Plan

if TYPE_CHECKING:
    from taskheads.merging.with_heads import Kept

# What makes a folder a model of taskheads: said here again, since the room that owns the name loads torch.
MANIFEST = "taskheads.json"


def merge(
    plan: Plan,
    out: Path,
    *,
    data: Any = None,
    threads: int = 1,
    progress: engine.Progress | None = None,
) -> Sequence[Kept]:
    """Merge what a plan names into the folder `out`, by what the inputs are; with `data` (a suite) what the
    merge of taskheads models left of each task.

    Raises ConfigError for a plan that cannot be meant, before anything is opened; ModelError for inputs of
    different kinds, and whatever `engine.run`, `with_heads.merge` and `adapters.merge` raise.
    """
    kinds = {entry.path: _kind(entry.path) for entry in plan.models}
    kind = next(iter(kinds.values()), "")
    plan.check(has_base=plan.base is not None or kind == _ADAPTER, data=data is not None)
    for path, other in kinds.items():
        if other != kind:
            first = plan.models[0].path
            raise ModelError(f"{path} is {other}, and {first} is {kind}: merge models of one kind")
    if kind == _OURS:
        from taskheads.merging import with_heads

        return with_heads.merge(plan, out, data=data, threads=threads, progress=progress)
    if data is not None or plan.keep:
        asked = "--data" if data is not None else "keep"
        raise ConfigError(
            f"{asked} is about tasks, and {plan.models[0].path} is {kind}: fit a taskheads model first"
        )
    if kind == _ADAPTER:
        adapters.merge(plan, out, threads=threads, progress=progress)
    else:
        engine.run(plan, out, threads=threads, progress=progress)
    return []


_OURS, _ADAPTER, _CHECKPOINT = "a taskheads model", "an adapter", "a checkpoint"


def _kind(path: Path) -> str:
    if (path / MANIFEST).exists():
        return _OURS
    return _ADAPTER if (path / adapters.CONFIG).exists() else _CHECKPOINT
