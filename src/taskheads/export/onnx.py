"""One ONNX file with the outputs of all tasks, held against the model before anybody gets it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taskheads.errors import ConfigError, ModelError
from taskheads.export.graph import Graph, said
from taskheads.export.running import OnnxModel, decisions
from taskheads.heads import Head
from taskheads.model.evaluation import Score, score
from taskheads.model.features import features_of
from taskheads.model.model import Model
from taskheads.tasks.task import Examples

FLOAT, INT8, ABOUT = "model.onnx", "model.int8.onnx", "tasks.json"
SCHEMA = 1

# Texts to hold both against each other: short and long, alone and in pairs.
_TEXTS = ("a", "one short text", "Numbers like 1,234.5 and names like Zürich", "a longer text, " * 12)
# In units of the largest number that an output has.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """What was written.

    gaps: by task, the largest difference between graph and model, in units of the largest number there.
    scores: by file, how good it is on labelled rows, where there were some.
    """

    folder: Path
    gaps: Mapping[str, float]
    scores: Mapping[str, list[Score]]


def write_onnx(
    model: Model, folder: str | Path, *, int8: bool = False, rows: Mapping[str, Examples] | None = None
) -> Exported:
    """Write a model as ONNX, all or nothing.

        model.onnx        one graph: `Graph` says what goes in and comes out
        model.int8.onnx   with `int8`, the same with the backbone's weights in eight bits
        tasks.json        what each output means: kind, labels, thresholds, transitions
        tokenizer.json …  the tokenizer, as Hugging Face writes it

    Parameters
    ----------
    rows: labelled rows by task, on which each file is judged.

    Raises
    ------
    ConfigError: the model has no such graph (`Graph`), or the folder is not empty. ModelError: ONNX Runtime
    says something else than the model.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already; choose another folder for the export")
    tokens = model.backbone.tokens
    if tokens is None:
        raise ConfigError("a model without a tokenizer cannot be exported")
    graph = Graph(model).eval()
    folder.parent.mkdir(parents=True, exist_ok=True)
    begun = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        begun.chmod(0o755)
        _write_graph(graph, begun / FLOAT)
        files = [FLOAT]
        exported = OnnxModel(begun / FLOAT, tokens)
        gaps = _gaps(model, exported)
        for task, gap in gaps.items():
            if not gap < _TOLERANCE:
                raise ModelError(f"the graph's answers to {task!r} differ from the model's by {gap:.1e}")
        scores = {FLOAT: _scores(model, exported, rows or {})}
        if int8:
            _write_int8(begun / FLOAT, begun / INT8)
            files.append(INT8)
            scores[INT8] = _scores(model, OnnxModel(begun / INT8, tokens), rows or {})
        about = {"schema": SCHEMA, "files": files, "limit": tokens.limit, "outputs": _about(graph)}
        (begun / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        tokens.tokenizer.save_pretrained(begun)
        if folder.exists():
            folder.rmdir()
        os.replace(begun, folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return Exported(folder, gaps, scores)


def _write_graph(graph: Graph, path: Path) -> None:
    ids = torch.tensor([[1, 2, 3], [3, 2, 1]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    pairs = torch.tensor([[0, 1], [1, 0], [1, 1], [0, 0]])
    free = torch.export.Dim.DYNAMIC
    with _quiet(), torch.no_grad():
        made = torch.onnx.export(
            graph,
            (ids, mask, torch.zeros_like(ids), pairs),
            dynamo=True,
            dynamic_shapes=({0: free, 1: free}, {0: free, 1: free}, {0: free, 1: free}, {0: free}),
            input_names=["ids", "mask", "segments", "pairs"],
            output_names=list(graph.outputs),
            verbose=False,
        )
        assert made is not None
        made.save(path, external_data=False)


def _write_int8(plain: Path, path: Path) -> None:
    """The weights of the backbone as int8, a scale for each output of a map; heads as they are, which cost
    nothing and decide everything."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(plain).graph.node
    of_heads = [node.name for node in nodes if any(each.startswith("heads.") for each in node.input)]
    with _quiet():
        quantize_dynamic(
            plain, path, per_channel=True, weight_type=QuantType.QInt8, nodes_to_exclude=of_heads
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the exporters tell of themselves, kept off the terminal; what is wrong they raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _gaps(model: Model, exported: OnnxModel) -> dict[str, float]:
    gaps = {}
    for name, head in model.heads.items():
        rows = _sample(head)
        features = features_of(model.backbone_of(name), {name: head}, {name: rows})
        with torch.inference_mode():
            mine = said(head, head(features.of(head, rows).features))
        theirs, _ = exported.said(head, rows)
        gaps[name] = float((mine - theirs).abs().max() / mine.abs().max().clamp_min(1e-6))
    return gaps


def _sample(head: Head) -> Examples:
    columns: list[list[Any]] = [list(_TEXTS), list(_TEXTS[::-1])][: len(head.task.inputs)]
    if head.task.kind == "tag":
        columns = [[text.split() for text in _TEXTS]]
    return Examples(tuple(columns), [None] * len(_TEXTS), [("", 0)] * len(_TEXTS))


def _scores(model: Model, exported: OnnxModel, rows: Mapping[str, Examples]) -> list[Score]:
    found = []
    for name, examples in rows.items():
        head = model.heads[name]
        made = decisions(head, *exported.said(head, examples))
        found.append(score(head, examples, made, None, model.card["seed"]))
    return found


def _about(graph: Graph) -> dict[str, Any]:
    """By output, what somebody needs who has only the graph."""
    told = {}
    for name, (head, part) in graph.outputs.items():
        task = head.task
        about: dict[str, Any] = {"task": task.name, "kind": task.kind, "inputs": list(task.inputs)}
        if part:
            about["side"] = part
        if task.labels:
            about["labels"] = list(task.labels)
        if task.kind == "multilabel":
            about["thresholds"] = head.get_buffer("thresholds").tolist()
        if task.kind == "tag":
            about["transitions"] = head.state_dict()["transitions"].tolist()
        compares = len(head.requests) == 2 and not part
        about["of"] = "tokens" if task.kind == "tag" else "pairs" if compares else "rows"
        told[name] = about
    return told
