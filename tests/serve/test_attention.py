"""Which attention heads an answer leaned on, over HTTP: only where the model was inspected."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.cli import inspecting
from taskheads.model.model import Model
from taskheads.serve import changing
from tests.model.test_prediction import close
from tests.serve.conftest import TASKS, Served, serving

ROW = {"text": "the quick brown fox", "other": "lazy dogs", "query": "home", "doc": "the fox"}


def inspected(model: Model, folder: Path, fingerprint: str | None = None) -> HeadScores:
    """Scores as `taskheads inspect` leaves them in a model's folder."""
    values = torch.rand(len(model.heads), *AttentionHeads(model.backbone).shape)
    values[:, 2, 3] = torch.nan
    about = {"fingerprint": fingerprint or model.backbone.fingerprint}
    scores = HeadScores(values, torch.zeros_like(values), about, tuple(model.heads))
    scores.save(folder / "scores.safetensors")
    return scores


@pytest.fixture(scope="module")
def looked_into(
    model: Model, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, HeadScores]]:
    copy = tmp_path_factory.mktemp("inspected") / "first"
    shutil.copytree(folder, copy)
    scores = inspected(model, copy)
    with serving(copy, token="secret") as served:
        yield served, scores


def leaned(served: Served, **body) -> dict:
    answer = served.post("/v1/attention", body)
    assert answer.status_code == 200, answer.text
    return answer.json()["answers"]


@torch.no_grad()
def test_the_numbers_are_slopes_of_what_predict_answers(looked_into, folder: Path) -> None:
    """By predictions of the model with one attention head made a little louder, and a little softer, in its
    part of the output projection."""
    served, scores = looked_into
    model = Model.load(folder)
    found = leaned(served, inputs=ROW)
    assert set(found) == set(TASKS)
    assert found["other"] is None  # which has no title to read
    task, step = "size", 0.05
    heads, index = AttentionHeads(model.backbone), TASKS.index(task)
    said = served.post("/v1/predict", {"inputs": ROW, "tasks": [task]}).json()["answers"][0][task]
    assert found[task]["strength"] == pytest.approx(said["value"], abs=1e-5)
    for layer, head in heads.which():
        ends = []
        weight = heads.output_weight(layer)[head]
        kept = weight.clone()
        for sign in (1, -1):
            weight.copy_((1 + sign * step) * kept)
            ends.append(model.predict([ROW], tasks=[task])[0][task]["value"])
        weight.copy_(kept)
        difference = (ends[0] - ends[1]) / (2 * step)
        assert found[task]["leaning"][layer][head] == pytest.approx(difference, abs=2e-3)
    assert max(abs(each) for layer in found[task]["leaning"] for each in layer) > 0.05
    importance = found[task]["importance"]
    assert importance[2][3] is None
    assert importance[0] == pytest.approx(scores.values[index, 0].tolist(), abs=1e-6)


def test_every_kind_says_what_its_number_is(looked_into) -> None:
    served, _ = looked_into
    scales = {task: each["scale"] for task, each in leaned(served, inputs=ROW).items() if each}
    assert scales.pop("size") == scales.pop("like") == "value"
    assert scales.pop("find") == "cosine"
    assert set(scales.values()) == {"log-odds"}
    alone = leaned(served, inputs="home", tasks=["topic", "find"])
    assert alone["topic"]["leaning"]
    assert alone["find"] is None  # a query alone is like nothing


def test_the_same_numbers_whoever_else_asks(looked_into) -> None:
    served, _ = looked_into
    every = leaned(served, inputs=ROW)
    for task in ("topic", "names"):
        assert close(leaned(served, inputs=ROW | {"id": task}, tasks=[task])[task], every[task])


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"inputs": ["a", "b"]}, 422, "inputs"),
        ({"inputs": {"text": 3}}, 422, "inputs.text"),
        ({"inputs": {"nothing": "a"}}, 422, "inputs"),
        ({"inputs": "a", "tasks": ["topik"]}, 422, "tasks[0]"),
        ({"inputs": "a", "model": "second"}, 422, "model"),
        ({"inputs": "a", "scores": True}, 422, "scores"),
        ({}, 422, "inputs"),
    ],
)
def test_what_cannot_be_meant(looked_into, body: dict, status: int, field: str) -> None:
    answer = looked_into[0].post("/v1/attention", body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)


def test_it_stands_behind_the_same_limits(looked_into, monkeypatch: pytest.MonkeyPatch) -> None:
    served, _ = looked_into
    bare = served.client.post("/v1/attention", json={"inputs": "a"}, headers={"Authorization": ""})
    assert bare.status_code == 401
    backbone = served.version.model.backbone
    monkeypatch.setattr(backbone.tokens, "limit", 4096)
    answer = served.post("/v1/attention", {"inputs": "word " * 2000})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (413, "inputs")
    schema = served.client.get("/openapi.json").json()
    assert "leaning" in schema["components"]["schemas"]["Leaning"]["properties"]


def test_every_task_waits_for_its_own_passes(folder: Path, model: Model, tmp_path: Path) -> None:
    """About six tokens, three passes each: two tasks have room, three would never have."""
    shutil.copytree(folder, tmp_path / "first")
    inspected(model, tmp_path / "first")
    with serving(tmp_path / "first", waiting_tokens=40) as served:
        ask = {"inputs": "a" * 16, "tasks": ["topic", "size"]}
        assert served.post("/v1/attention", ask).status_code == 200
        assert served.post("/v1/attention", ask | {"tasks": ["topic", "size", "stars"]}).status_code == 413


def test_a_model_that_was_not_inspected_says_what_to_do(served: Served) -> None:
    answer = served.post("/v1/attention", {"inputs": "a"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == 409
    assert "taskheads inspect" in answer.json()["detail"]
    assert served.client.get("/v1/models").json()["data"][0]["inspected"] is False


def test_scores_of_another_backbone_do_not_count(folder: Path, model: Model, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "first")
    inspected(model, tmp_path / "first", "another")
    with serving(tmp_path / "first") as served:
        assert served.post("/v1/attention", {"inputs": "a"}).status_code == 409


def test_a_task_that_changed_keeps_its_leaning_alone(folder: Path, model: Model, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "first")
    shutil.copytree(folder, tmp_path / "other")
    inspected(model, tmp_path / "first")
    with serving(tmp_path / "first", token="secret") as served:
        assert served.client.get("/v1/models").json()["data"][0]["inspected"] is True
        changed = served.client.put("/v1/admin/models/first/tasks/topic", json={"folder": "other"})
        assert changed.status_code == 200
        found = leaned(served, inputs="home", tasks=["topic", "size"])
        assert found["topic"]["importance"] is None
        assert found["topic"]["leaning"]
        assert found["size"]["importance"]


def test_it_reads_what_the_command_leaves() -> None:
    assert changing.SCORES == inspecting.SCORES == "scores.safetensors"
