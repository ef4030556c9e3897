"""Whole models that are made in a moment: a tiny backbone with random weights, heads with random weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.reads import Read
from taskheads.heads import Head, head_for
from taskheads.model.model import Model
from taskheads.tasks.metrics import default_metric
from taskheads.tasks.task import Task
from tests.backbone.models import CONFIGS, tiny
from tests.backbone.tokenizers import wordpiece

KINDS: dict[str, tuple[str, tuple[str, ...], tuple]] = {
    "topic": ("classify", ("text",), ("a", "b", "c")),
    "labels": ("multilabel", ("text",), ("x", "y")),
    "size": ("regress", ("text",), ()),
    "stars": ("ordinal", ("text",), (1, 2, 3)),
    "names": ("tag", ("text",), ("B-N", "I-N", "O")),
    "chain": ("tag", ("text",), ("B-N", "I-N", "O")),
    "same": ("pair", ("text", "other"), ("no", "yes")),
    "joint": ("pair", ("text", "other"), ("no", "yes")),
    "like": ("pair", ("text", "other"), ()),
    "find": ("embed", ("query", "doc"), ()),
    "other": ("classify", ("title",), ("p", "q")),
}
WORDS = "the quick brown fox jumps over lazy dogs unbelievably often words don't mind home"
OPTIONS: dict[str, dict[str, Any]] = {"chain": {"crf": True}, "joint": {"encoding": "joint"}}
# Heads of different width, from different heights.
READS = {
    "topic": ("layers.0.output", "output"),
    "size": ("layers.1.output",),
    "find": ("embeddings", "output"),
}


def tiny_backbone(seed: int = 0, precision: str = "float32") -> Backbone:
    """The same for the same seed, in every process."""
    model = tiny(copy.deepcopy(CONFIGS["bert"]), seed)
    return Backbone(model, wordpiece(), name="tiny", limit=32, precision=precision)


def tiny_head(name: str, backbone: Backbone) -> Head:
    kind, inputs, labels = KINDS[name]
    judged = "similarity" if kind == "pair" and not labels else kind
    label = None if kind == "embed" else name
    options = OPTIONS.get(name, {})
    task = Task(name, kind, inputs, label, default_metric(judged), labels, options)  # type: ignore[arg-type]
    pooling = "words" if kind == "tag" else "mean"
    reads = [Read(site, pooling) for site in READS.get(name, ("output",))]
    head = head_for(task)(task, reads, backbone.width)
    draw = torch.Generator().manual_seed(sum(map(ord, name)))
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=draw)
    if kind == "ordinal":  # as fitted ones are: of others some level's probability is negative
        head.thresholds.data = head.thresholds.data.sort().values  # type: ignore[union-attr, operator]
    return head.eval()


def tiny_model(names: Sequence[str] = tuple(KINDS), backbone: Backbone | None = None) -> Model:
    backbone = backbone or tiny_backbone()
    card = {
        "backbone": "tiny",
        "seed": 0,
        "sources": [],
        "tasks": {name: {"kind": KINDS[name][0], "commonest": None} for name in names},
    }
    return Model(backbone, {name: tiny_head(name, backbone) for name in names}, card)


def rows(count: int = 12) -> list[dict[str, str]]:
    """Rows with all columns, of many lengths."""
    words = WORDS.split()

    def text(i: int, shift: int) -> str:
        return " ".join(words[(i * shift + k) % len(words)] for k in range(1 + (i * shift) % 9))

    columns = ("text", "other", "query", "doc", "title")
    return [{column: text(i, 3 + shift) for shift, column in enumerate(columns)} for i in range(count)]
