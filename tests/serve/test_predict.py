"""Answers over HTTP are the model's own; a request that cannot be answered is told which field is wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from taskheads.model.model import Model
from tests.model.test_prediction import close
from tests.serve.conftest import TASKS, Served, together
from tests.small_models import rows

SECRET = "zebra stripes"


def test_one_row_or_many_are_answered_as_the_model_does(served: Served, model: Model) -> None:
    asked: list[Any] = [*rows(7), "a plain text", {"query": "home"}]
    answered = served.post("/v1/predict", {"inputs": asked, "scores": True}).json()
    assert close(answered["answers"], model.predict(asked, scores=True))
    assert answered["model"] == str(served.version)
    (single,) = served.post("/v1/predict", {"inputs": asked[0]}).json()["answers"]
    assert close(single, model.predict(asked[:1])[0])
    assert single.keys() == set(TASKS)


def test_only_the_tasks_that_are_asked_for(served: Served, model: Model) -> None:
    asked = {"inputs": "the quick fox", "tasks": ["size", "topic"]}
    (answer,) = served.post("/v1/predict", asked).json()["answers"]
    assert list(answer) == ["size", "topic"]
    assert close(answer, model.predict(["the quick fox"], tasks=["size", "topic"])[0])


def test_requests_that_arrive_together_get_each_its_own(served: Served, model: Model) -> None:
    """Texts, tasks and scores that differ, in the same batches."""
    asked = [
        {"inputs": f"{row['text']} {at}", "tasks": [TASKS[at % 4]], "scores": at % 3 == 0}
        for at, row in enumerate(rows(40))
    ]
    answers = together(*(partial(served.post, "/v1/predict", each) for each in asked))
    for each, answer in zip(asked, answers, strict=True):
        expected = model.predict([each["inputs"]], tasks=each["tasks"], scores=each["scores"])
        assert close(answer.json()["answers"], expected)


def test_a_task_abstains_below_the_threshold_of_the_caller(served: Served) -> None:
    def ask(below: Any) -> dict[str, Any]:
        body = {"inputs": "lazy dogs", "tasks": ["topic", "stars", "size"], "abstain_below": below}
        return served.post("/v1/predict", body).json()["answers"][0]

    sure = ask(0)
    assert sure["topic"]["abstained"] is False
    assert "abstained" not in sure["size"]
    score = sure["topic"]["score"]
    assert ask(score)["topic"] == sure["topic"]
    assert ask({"topic": score + 1e-6}) == {
        **sure,
        "topic": {"label": None, "score": score, "abstained": True},
        "stars": {key: sure["stars"][key] for key in ("value", "score")},
    }
    assert ask(1)["stars"]["value"] is None


@pytest.mark.parametrize(
    ("body", "field", "detail"),
    [
        ({}, "inputs", "needed"),
        ({"inputs": []}, "inputs", "at least one row"),
        ({"inputs": ["a", 3]}, "inputs[1]", "a number"),
        ({"inputs": None}, "inputs", "a text or an object"),
        ({"inputs": " "}, "inputs.text", "without text"),
        ({"inputs": ["a", {"text": 4}]}, "inputs[1].text", "a text is needed"),
        ({"inputs": {"text": "a", "other": ["b", 4]}}, "inputs.other", "list of words"),
        ({"inputs": {"txet": SECRET}}, "inputs", "no task has its inputs here; they are doc,"),
        ({"inputs": "a", "tasks": ["topik"]}, "tasks[0]", "did you mean 'topic'?"),
        ({"inputs": "a", "tasks": []}, "tasks", "at least 1 item"),
        ({"inputs": "a", "tasks": "topic"}, "tasks", "valid list"),
        ({"inputs": "a", "scores": "yes"}, "scores", "valid boolean"),
        ({"inputs": "a", "model": "frist"}, "model", "did you mean 'first'?"),
        ({"inputs": "a", "abstain_below": 2}, "abstain_below", "from 0 to 1"),
        ({"inputs": "a", "abstain_below": {"topic": True}}, "abstain_below.topic", "from 0 to 1"),
        ({"inputs": "a", "abstain_below": {"size": 0.5}}, "abstain_below.size", "no score"),
        ({"inputs": "a", "abstain_below": {"sise": 0.5}}, "abstain_below", "did you mean 'size'?"),
        ({"inputs": "a", "treshold": 0.5}, "treshold", "no such field"),
        ({"inputs": "\ud83d"}, "inputs.text", "half a character"),
    ],
)
def test_a_problem_names_the_field(served: Served, body: Any, field: str, detail: str) -> None:
    answer = served.post("/v1/predict", body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 422
    (error, *_) = problem["errors"]
    assert error["field"] == field
    assert detail in error["detail"]
    assert SECRET not in answer.text


def test_a_row_at_fault_spoils_no_other_request(served: Served, model: Model) -> None:
    """Sent at once, so that they share batches; the good ones are answered, each bad one is told its row."""
    asked: list[list[Any]] = [[f"good {at}", {"text": at} if at % 5 == 0 else "fine"] for at in range(25)]
    answers = together(
        *(partial(served.post, "/v1/predict", {"inputs": each, "tasks": ["topic"]}) for each in asked)
    )
    for at, answer in enumerate(answers):
        if at % 5 == 0:
            assert answer.json()["errors"][0]["field"] == "inputs[1].text"
        else:
            assert close(answer.json()["answers"], model.predict(asked[at], tasks=["topic"]))


def test_a_version_is_asked_for_by_its_name(served: Served) -> None:
    name = str(served.version)
    assert served.post("/v1/predict", {"inputs": "a", "model": name}).json()["model"] == name
    gone = served.post("/v1/predict", {"inputs": "a", "model": "first@00000000"})
    assert gone.status_code == 410
    assert name in gone.json()["detail"]


def test_models_are_listed_with_their_tasks(served: Served) -> None:
    (about,) = served.client.get("/v1/models").json()["data"]
    assert about["id"] == str(served.version)
    assert list(about["tasks"]) == list(TASKS)
    assert about["tasks"]["stars"]["labels"] == [1, 2, 3]


def test_the_document_of_the_api_describes_every_route(served: Served) -> None:
    document = served.client.get("/openapi.json").json()
    routes = {"/v1/predict", "/v1/bulk", "/v1/embeddings", "/v1/huggingface/{task}", "/v1/search"}
    assert routes <= document["paths"].keys()
    predict = document["components"]["schemas"]["Predict"]
    assert predict["required"] == ["inputs"]
    assert {"type": "object"} in predict["properties"]["inputs"]["anyOf"]
