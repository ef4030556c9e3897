"""The shapes that clients of others expect, search, and rows of any number."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskheads.errors import ConfigError, DataError
from taskheads.model.model import Model
from tests.model.test_prediction import close
from tests.serve.conftest import Served, serving
from tests.small_models import rows, tiny_model


@pytest.fixture(scope="module")
def searching(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with documents to search: objects, and one plain text."""
    documents = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    lines: list[Any] = [{"id": at, "doc": row["doc"]} for at, row in enumerate(rows(9))]
    documents.write_text("".join(json.dumps(each) + "\n" for each in [*lines, "a plain text"]))
    with serving(folder, collections={"find": documents}) as served:
        yield served


def test_embeddings_are_those_of_the_model_on_either_side(served: Served, model: Model) -> None:
    texts = ["the quick fox", "home"]
    for side, column in (("query", "query"), ("document", "doc")):
        body = {"input": texts, "model": "first", "input_type": side}
        answer = served.post("/v1/embeddings", body).json()
        expected = model.predict([{column: text} for text in texts], tasks=["find"])
        assert [each["index"] for each in answer["data"]] == [0, 1]
        assert close(
            [each["embedding"] for each in answer["data"]], [e["find"]["embedding"] for e in expected]
        )
        tokens = model.backbone.tokens
        assert tokens is not None
        count = sum(map(len, tokens.texts(texts)))
        assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}


def test_embeddings_in_base64_are_the_same_numbers(served: Served) -> None:
    """Which is how OpenAI's own client asks for them."""
    body = {"input": "home", "model": f"{served.version}/find", "encoding_format": "float"}
    plain = served.post("/v1/embeddings", body).json()["data"][0]["embedding"]
    packed = served.post("/v1/embeddings", body | {"encoding_format": "base64"}).json()["data"][0][
        "embedding"
    ]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == np.float32(plain).tolist()


@pytest.mark.parametrize(
    ("more", "status", "field"),
    [
        ({"model": "second"}, 422, "model"),
        ({"model": "first/topic"}, 422, "model"),
        ({"dimensions": 3}, 422, "dimensions"),
        ({"input": [[1, 2]]}, 422, "input[0]"),
        ({"input": {"doc": "a"}}, 422, "input"),
        ({"input": ""}, 422, "input.query"),
    ],
)
def test_embeddings_that_cannot_be_made(served: Served, more: dict, status: int, field: str) -> None:
    answer = served.post("/v1/embeddings", {"input": "a", "model": "first"} | more)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (status, field)


def test_the_client_of_hugging_face_works_unchanged(served: Served, model: Model) -> None:
    hub = pytest.importorskip("huggingface_hub")
    client = hub.InferenceClient(f"{served.address}/v1/huggingface/topic", provider="hf-inference", token="-")
    found = client.text_classification("the quick fox", top_k=2)
    expected = model.predict(["the quick fox"], tasks=["topic"], scores=True)[0]["topic"]["scores"]
    assert [each.label for each in found] == list(expected)[:2]
    assert close([each.score for each in found], list(expected.values())[:2])


def test_every_kind_with_an_answer_about_the_whole_text_is_a_classifier(served: Served, model: Model) -> None:
    def ask(task: str, inputs: Any, **parameters: Any) -> Any:
        body = {"inputs": inputs, "parameters": parameters}
        return served.post(f"/v1/huggingface/{task}", body).json()

    assert {each["label"] for each in ask("labels", "home")[0]} == {"x", "y"}
    assert [each["label"] for each in ask("stars", ["home", "fox"])[1]] != []
    pair = {"text": "home", "text_pair": "fox"}
    same = model.predict([{"text": "home", "other": "fox"}], tasks=["same"])[0]["same"]
    assert close(ask("same", pair, top_k=1), [[{"label": same["label"], "score": same["score"]}]])
    (value,) = model.predict(["home"], tasks=["size"])
    assert close(ask("size", "home"), [[{"label": "size", "score": value["size"]["value"]}]])
    assert ask("same", {"text": "home"})["errors"][0]["field"] == "inputs[0]"
    assert (
        ask("topic", "a", function_to_apply="sigmoid")["errors"][0]["field"] == "parameters.function_to_apply"
    )
    assert ask("names", "a")["status"] == 409
    assert ask("nothing", "a")["status"] == 404


def test_search_finds_what_the_embeddings_say(searching: Served, model: Model) -> None:
    documents = [row["doc"] for row in rows(9)] + ["a plain text"]
    pairs = [{"query": "lazy dogs", "doc": text} for text in documents]
    alike = [each["find"]["similarity"] for each in model.predict(pairs, tasks=["find"])]
    order = sorted(range(10), key=lambda at: -alike[at])
    answer = searching.post("/v1/search", {"query": ["lazy dogs"], "top_k": 4}).json()
    (hits,) = answer["results"]
    assert close([each["score"] for each in hits], [alike[at] for at in order[:4]])
    for hit in hits:
        assert hit["document"]["doc"] == documents[hit["index"]]
        assert hit["document"].get("id", 9) == hit["index"]
    assert len(searching.post("/v1/search", {"query": "a", "top_k": 100}).json()["results"][0]) == 10


def test_search_without_documents_says_how_to_give_some(served: Served) -> None:
    answer = served.post("/v1/search", {"query": "a"})
    assert (answer.status_code, "--collection" in answer.json()["detail"]) == (409, True)


def test_documents_are_checked_before_the_server_starts(folder: Path, tmp_path: Path) -> None:
    documents = tmp_path / "documents.jsonl"
    documents.write_text('{"doc": "a"}\n{"dco": "b"}\n')
    with (
        pytest.raises(DataError, match="row 2, column 'doc'"),
        serving(folder, collections={"find": documents}),
    ):
        pass
    for task in ("topic", "nothing"):
        with (
            pytest.raises(ConfigError, match=f"has an embed task '{task}'"),
            serving(folder, collections={task: documents}),
        ):
            pass


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_bulk_answers_line_by_line_and_goes_on_after_a_bad_one(served: Served, model: Model) -> None:
    good = rows(300)
    body = [json.dumps(row).encode() for row in good]
    bad = {40: b"{", 41: b"\xff", 42: b"3", 43: b'{"text": 4}', 44: b'{"txet": "a"}', 45: b"[" * 5000}
    for at, line in bad.items():
        body.insert(at, line)
    answer = served.client.post("/v1/bulk", params={"tasks": ["topic", "size"]}, content=b"\n\n".join(body))
    assert answer.headers["content-type"] == "application/x-ndjson"
    found = lines(answer.text)
    for at in bad:
        error = found[at]["error"]
        assert error["status"] == 422
        assert error["errors"][0]["field"].split(".")[0] == f"line {2 * at + 1}"
    answers = [each["answers"] for at, each in enumerate(found) if at not in bad]
    assert close(answers, model.predict(good, tasks=["topic", "size"]))


def test_bulk_begins_to_answer_before_all_is_sent(served: Served) -> None:
    """One row at a time, each sent when the one before is answered."""
    received: list[dict[str, Any]] = []
    import http.client

    host, _, port = served.address.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.putrequest("POST", "/v1/bulk?tasks=topic")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    for row in ('"one"\n', '"two"\n'):
        connection.send(b"%x\r\n%s\r\n" % (len(row), row.encode()))
        if not received:
            response = connection.getresponse()
        received.append(json.loads(response.readline()))
    connection.send(b"0\r\n\r\n")
    assert response.read() == b""
    connection.close()
    assert [each["answers"].keys() for each in received] == [{"topic"}, {"topic"}]


def test_bulk_with_a_task_that_is_not_there_is_a_problem_at_once(served: Served) -> None:
    answer = served.client.post("/v1/bulk", params={"tasks": "topik"}, content=b'"a"\n')
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "tasks[0]")


def test_a_text_that_is_out_of_scope_is_flagged(tmp_path: Path) -> None:
    """By the label that is called so, or that the server was told of."""
    import dataclasses

    for label, declared in (("Out-of-scope", {}), ("c", {"topic": "c"})):
        made = tiny_model(["topic", "other"])
        head = made.heads["topic"]
        head.task = dataclasses.replace(head.task, labels=("a", "b", label))
        made.save(tmp_path / label)
        with serving(tmp_path / label, out_of_scope=declared) as served:
            inputs = [row | {"title": "a"} for row in rows(30)]
            answers = served.post("/v1/predict", {"inputs": inputs}).json()["answers"]
            flags = [each["topic"]["out_of_scope"] for each in answers]
            assert flags == [each["topic"]["label"] == label for each in answers]
            assert len(set(flags)) == 2
            assert all("out_of_scope" not in each["other"] for each in answers)
