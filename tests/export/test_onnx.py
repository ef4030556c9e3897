"""What is written says what the model says, for every kind of task, of rows of any number and length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from taskheads.backbone.branching import Branch, branched
from taskheads.edits.edit import made
from taskheads.errors import ConfigError, ModelError
from taskheads.export import onnx
from taskheads.export.onnx import FLOAT, Exported, write_onnx
from taskheads.export.running import OnnxModel, decisions
from taskheads.model.features import features_of
from taskheads.model.model import Model
from taskheads.tasks.task import Examples
from tests.small_models import KINDS, rows, tiny_backbone, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")
EDITED, OWN = "topic", "labels"


@pytest.fixture(scope="module")
def model() -> Model:
    """Every kind; one task has an edit, another one a branch of the backbone."""
    backbone = tiny_backbone()
    model = tiny_model(tuple(KINDS), backbone)
    edit = made("lora", backbone, [EDITED], {"rank": 2})
    torch.manual_seed(0)
    for parameter in edit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.edits[EDITED] = edit
    name = "encoder.layer.1.output.dense.weight"
    own = branched(backbone, {name: backbone.model.get_parameter(name) + 0.1})
    model.branches["own"], model.branch_of[OWN] = Branch(own), "own"
    return model


@pytest.fixture(scope="module")
def exported(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return write_onnx(model, tmp_path_factory.mktemp("exported") / "graph")


def examples(name: str, count: int = 40) -> Examples:
    kind, inputs, _labels = KINDS[name]
    columns: list[list[Any]] = [[row[column] for row in rows(count)] for column in inputs]
    if kind == "tag":
        columns = [[text.split() for text in columns[0]]]
        columns[0][3] = ["home"] * 50 + ["", "fox"]  # longer than the window, and a word that is nothing
    return Examples(tuple(columns), [None] * count, [("", 0)] * count)


@pytest.mark.parametrize("name", KINDS)
def test_onnx_runtime_decides_as_the_model(model: Model, exported: Exported, name: str) -> None:
    head, asked = model.heads[name], examples(name)
    features = features_of(model.backbone_of(name), {name: head}, {name: asked})
    gathered, lengths = features.of(head, asked)
    with torch.inference_mode():
        mine = head.decide(head(gathered), lengths)
    tokens = model.backbone.tokens
    assert tokens is not None
    theirs = decisions(head, *OnnxModel(exported.folder / FLOAT, tokens).said(head, asked))
    if mine.scores is not None:
        np.testing.assert_allclose(theirs.scores, mine.scores, atol=1e-4)
    if head.task.kind == "tag" or head.task.labels:
        assert [np.asarray(each).tolist() for each in theirs.predicted] == [
            np.asarray(each).tolist() for each in mine.predicted
        ]
    else:
        np.testing.assert_allclose(theirs.predicted, mine.predicted, atol=1e-4)
    assert exported.gaps[name] < 1e-5


def test_what_stands_beside_the_graph_is_enough_to_use_it(model: Model, exported: Exported) -> None:
    """With the tokenizer's file, ONNX Runtime and numpy alone, a text has the answer that the model gives."""
    import onnxruntime
    from tokenizers import Tokenizer

    about = json.loads((exported.folder / "tasks.json").read_text(encoding="utf-8"))
    outputs = about["outputs"]
    assert {each["task"] for each in outputs.values()} == set(KINDS)
    assert outputs["same"]["of"] == "pairs"
    assert outputs["names"]["of"] == "tokens"
    ids = Tokenizer.from_file(str(exported.folder / "tokenizer.json")).encode("lazy dogs").ids
    session = onnxruntime.InferenceSession(str(exported.folder / FLOAT))
    row = np.asarray([ids])
    given = {"ids": row, "mask": np.ones_like(row), "segments": np.zeros_like(row)}
    given["pairs"] = np.zeros((0, 2), np.int64)
    found = dict(zip(outputs, session.run(list(outputs), given), strict=True))
    (answer,) = model.predict(["lazy dogs"], scores=True)
    for name in ("topic", "stars"):
        scores = dict(zip(map(str, outputs[name]["labels"]), found[name][0].tolist(), strict=True))
        assert scores == pytest.approx(answer[name]["scores"], abs=1e-5)
    chosen = found["labels"][0] >= outputs["labels"]["thresholds"]
    assert {label for label, on in zip(outputs["labels"]["labels"], chosen, strict=True) if on} == set(
        answer["labels"]["labels"]
    )
    assert found["size"][0] == pytest.approx(answer["size"]["value"], abs=1e-4)
    assert found["find.query"][0].tolist() == pytest.approx(answer["find"]["embedding"], abs=1e-5)
    assert found["same"].shape == (0, 2)


def test_weights_that_tasks_share_are_written_once(exported: Exported) -> None:
    """An edit and a branch add what is theirs, not another backbone each."""
    import onnx as library

    graph = library.load(exported.folder / FLOAT).graph
    words = [each for each in graph.initializer if each.name.endswith("word_embeddings.weight")]
    assert len(words) == 1


def test_a_graph_that_says_something_else_is_not_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, plain = tiny_model(["size"]), onnx._write_graph

    def altered(graph: Any, path: Path) -> None:
        with torch.no_grad():
            head = model.heads["size"]
            head.bias.add_(1)
            plain(graph, path)
            head.bias.sub_(1)

    monkeypatch.setattr(onnx, "_write_graph", altered)
    with pytest.raises(ModelError, match="answers to 'size' differ"):
        write_onnx(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def refused() -> Iterator[tuple[Model, str]]:
    yield tiny_model(()), "no task to export"
    inside = tiny_model(["topic"])
    from taskheads.backbone.reads import Read

    inside.heads["topic"].reads = (Read("layers.0.attention.heads", "mean"),)
    yield inside, "it reads layers.0.attention.heads"
    prompted = tiny_model(["topic"])
    prompted.edits["topic"] = made("prompt_tuning", prompted.backbone, ["topic"])
    yield prompted, "prompt_tuning cannot be folded"


@pytest.mark.parametrize("number", range(3))
def test_a_model_without_such_a_graph(number: int, tmp_path: Path) -> None:
    model, says = list(refused())[number]
    with pytest.raises(ConfigError, match=says):
        write_onnx(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(model: Model, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match="there already"):
        write_onnx(model, tmp_path)
