"""Small tasks whose answers stand in their texts, for a tiny backbone to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.heads import Head, head_for
from taskheads.tasks.metrics import default_metric
from taskheads.tasks.task import Examples, Task, TaskData
from taskheads.training.candidates import single_candidates
from taskheads.training.joint.checkpoints import Checkpoints
from taskheads.training.joint.loop import Run
from taskheads.training.joint.optimiser import freeze_below
from taskheads.training.joint.recipe import Recipe
from taskheads.training.joint.rows import TaskRows
from tests.small_models import WORDS, tiny_backbone

VOCABULARY = WORDS.split()
KINDS: dict[str, tuple[str, tuple[str, ...], tuple]] = {
    "topic": ("classify", ("text",), ("brown", "lazy")),
    "size": ("regress", ("text",), ()),
    "names": ("tag", ("text",), ("B-N", "O")),
    "find": ("embed", ("query", "doc"), ()),
}


def planted(name: str, rows: int = 40, seed: int = 0) -> TaskData:
    """A task of `KINDS` with `rows` train rows and half as many in dev and test."""
    kind, inputs, labels = KINDS[name]
    label = None if kind == "embed" else name
    task = Task(name, kind, inputs, label, default_metric(kind), labels)  # type: ignore[arg-type]
    splits = {
        split: examples(name, count, seed + 10 * number)
        for number, (split, count) in enumerate([("train", rows), ("dev", rows // 2), ("test", rows // 2)])
    }
    return TaskData(task, splits)


def examples(name: str, count: int, seed: int) -> Examples:
    rng = np.random.default_rng([seed, len(name)])
    texts: list[Any] = []
    targets: list[Any] = []
    for row in range(count):
        words = rng.choice(VOCABULARY[4:], size=rng.integers(2, 9)).tolist()
        if name == "topic":
            words[rng.integers(len(words))] = KINDS[name][2][row % 2]
            targets.append(KINDS[name][2][row % 2])
        elif name == "size":
            targets.append(float(len(words)))
        elif name == "names":
            targets.append(
                ["B-N" if word == "fox" or row % 5 == at else "O" for at, word in enumerate(words)]
            )
        else:
            targets.append(None)
        texts.append(words if name == "names" else " ".join(words))
    sources = [("planted", row) for row in range(count)]
    inputs = (texts, [f"{text} home" for text in texts]) if name == "find" else (texts,)
    return Examples(inputs, targets, sources)


def fresh(
    names: Sequence[str] = ("topic", "size", "names"), backbone: Backbone | None = None
) -> tuple[Backbone, dict[str, Head], dict[str, TaskRows], dict[str, TaskData]]:
    """A backbone to train, heads of small random weights on its output, the train rows, and the data."""
    backbone = backbone or tiny_backbone()
    data = {name: planted(name) for name in names}
    heads = {name: head_of(backbone, each.task) for name, each in data.items()}
    rows = {
        name: TaskRows.of(backbone, type(heads[name]), each.task, each.splits["train"])
        for name, each in data.items()
    }
    freeze_below(backbone, 0)
    return backbone, heads, rows, data


def head_of(backbone: Backbone, task: Task) -> Head:
    kind = head_for(task)
    head = kind(task, single_candidates(backbone, kind, task)[0], backbone.width)
    draw = torch.Generator().manual_seed(len(task.name))
    # With weights of zero, no gradient would reach the backbone in the first step.
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=draw)
    return head


def run_of(
    said: Mapping[str, Any],
    names: Sequence[str] = ("topic", "size", "names"),
    folder: Path | None = None,
    backbone: Backbone | None = None,
    **more: Any,
) -> Run:
    """A run of twelve steps that does not end early; `said` is said of its recipe beyond that."""
    backbone, heads, rows, data = fresh(names, backbone)
    recipe = Recipe.of({"tokens": 96, "steps": 12, "lr": 1e-3, "patience": 9} | dict(said))
    kept = None if folder is None else Checkpoints(folder, {"recipe": recipe.model_dump()})
    dev = {name: each.splits["dev"] for name, each in data.items()}
    return Run(backbone, heads, rows, dev, dict.fromkeys(names, 0.5), recipe, checkpoints=kept, **more)


def numbers(run: Run) -> dict[str, Any]:
    """All that a run ended with, to be compared bit by bit."""
    told = {name: each.detach().numpy().tobytes() for name, each in run.weights.items()}
    course = run.course
    return told | {
        "losses": course.losses,
        "dev": course.dev,
        "best": course.best,
        "gramian": course.gramian,
    }


def without_dropout(run: Run) -> Run:
    """The run, with nothing left to chance but the order of rows."""
    for module in run.backbone.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in run.backbone.layout.layers:
        for module in layer.modules():
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0
    run.backbone.model.config.attention_probs_dropout_prob = 0.0
    return run
