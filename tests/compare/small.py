"""A suite that is compared in a moment: planted tasks in files, and a tiny backbone in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskheads.compare.comparing import compare
from taskheads.tasks.suite import Suite
from tests.small_models import tiny_backbone
from tests.training.joint.planted import planted

NAMES = ("topic", "size")
QUICK = {"tokens": 64, "steps": 2, "evaluations": 1, "lr": 1e-2, "edit_lr": 0.1}
# All the time there is.
AMPLE = 1000.0


def suite(names: Sequence[str] = NAMES, rows: int = 24) -> Suite:
    return Suite({name: planted(name, rows) for name in names}, "tiny", 0)


def compared(out: Path, methods: Sequence[str], **more: Any) -> dict[str, Any]:
    """A comparison in memory."""
    given: dict[str, Any] = {"training": QUICK, "budget": AMPLE, "backbone": tiny_backbone()} | more
    return compare(given.pop("suite", suite()), out=out, methods=methods, **given)


def written(
    folder: Path, names: Sequence[str] = NAMES, rows: int = 24, training: dict[str, Any] = QUICK
) -> Path:
    """The same suite as a YAML file, with its data and its backbone beside it."""
    import yaml

    tiny_backbone().save(folder / "tiny")
    tasks: dict[str, Any] = {}
    for name, data in suite(names, rows).tasks.items():
        for split, examples in data.splits.items():
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            columns = zip(*examples.inputs, examples.targets, strict=True)
            path.write_text(
                "".join(
                    json.dumps(dict(zip((*data.task.inputs, name), row, strict=True))) + "\n"
                    for row in columns
                )
            )
        tasks[name] = {"data": name, "input": "text", "label": name, "kind": data.task.kind}
    said = {"backbone": "tiny", "training": training, "tasks": tasks}
    (folder / "tasks.yaml").write_text(yaml.safe_dump(said))
    return folder / "tasks.yaml"
