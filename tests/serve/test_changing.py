"""Changing what is served while it is asked: nothing fails, and what was not changed answers as it did."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from taskheads.edits.edit import made
from taskheads.edits.files.shelf import save_edit
from taskheads.model.model import Model
from taskheads.serve.versions import identity
from tests.serve.conftest import Served, serving, until
from tests.small_models import rows, tiny_backbone, tiny_model

TOKEN = "secret"
ADMIN = "/v1/admin/models/first"
NAMES = ("topic", "size", "names")


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder of models on one backbone: `first` without, `second` with `labels` and another `size`; an edit
    of `topic`; and a model on another backbone."""
    backbone = tiny_backbone()
    tiny_model(NAMES, backbone).save(tmp_path / "first")
    second = tiny_model(["labels", "size"], backbone)
    with torch.no_grad():
        second.heads["size"].bias.add_(1)
    second.save(tmp_path / "second")
    edit = made("lora", backbone, ["topic"], {"rank": 2})
    torch.manual_seed(0)
    for parameter in edit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_edit(edit, tmp_path / "edit")
    tiny_model(["labels"], tiny_backbone(7)).save(tmp_path / "other")
    return tmp_path


@pytest.fixture
def served(beside: Path) -> Iterator[Served]:
    """Whose rows of one request are one batch, as those of `predict` are."""
    with serving(beside / "first", token=TOKEN, workers=1) as served:
        yield served


def answers(served: Served, **more: Any) -> list[dict[str, Any]]:
    answer = served.post("/v1/predict", {"inputs": rows(5)} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()["answers"]


def changed(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_tasks_and_edits_come_and_go_and_the_others_stay_bit_for_bit(served: Served, beside: Path) -> None:
    first, before = str(served.version), answers(served)
    second = Model.load(beside / "second").predict(rows(5))

    def change(method: str, path: str, folder: str | None = None) -> list[dict[str, Any]]:
        body = None if folder is None else {"folder": folder}
        changed(served.client.request(method, ADMIN + path, json=body))
        return answers(served)

    def of(found: list[dict[str, Any]], *tasks: str) -> list[list[Any]]:
        return [[each[task] for task in tasks] for each in found]

    now = change("PUT", "/tasks/labels", "second")
    assert of(now, *NAMES, "labels") == [
        [*a, *b] for a, b in zip(of(before, *NAMES), of(second, "labels"), strict=True)
    ]
    now = change("PUT", "/tasks/size", "second")
    assert of(now, "topic", "names") == of(before, "topic", "names")
    assert of(now, "size", "labels") == of(second, "size", "labels")
    now = change("DELETE", "/tasks/labels")
    assert now[0].keys() == set(NAMES)
    edited = change("PUT", "/edits/topic", "edit")
    assert of(edited, "size", "names") == of(now, "size", "names")
    assert of(edited, "topic") != of(now, "topic")
    assert change("DELETE", "/edits/topic") == now
    assert change("PUT", "") == before
    assert str(served.version) == first


def test_a_model_that_is_read_again_is_another_version(served: Served, beside: Path) -> None:
    """And the one before is kept for requests that name it."""
    old, before = str(served.version), answers(served)
    tiny_model(("topic", "other"), Model.load(beside / "second").backbone).save(beside / "first")
    new = changed(served.client.put(ADMIN))
    assert new["model"] != old
    assert new["tasks"] == ["topic", "other"]
    assert answers(served)[0].keys() == {"topic", "other"}
    assert answers(served, model=old) == before
    assert [each["id"] for each in served.client.get("/v1/models").json()["data"]] == [new["model"], old]
    changed(served.client.delete(f"{ADMIN}/tasks/other"))
    gone = served.post("/v1/predict", {"inputs": "a", "model": old})
    assert (gone.status_code, gone.json()["errors"][0]["field"]) == (410, "model")


def test_an_identity_is_of_the_answers_and_not_of_the_process(beside: Path) -> None:
    again = [identity(Model.load(beside / "first")) for _ in range(2)]
    assert again[0] == again[1] != identity(Model.load(beside / "second"))


@pytest.mark.parametrize(
    ("method", "path", "folder", "status", "detail"),
    [
        ("PUT", "/tasks/labels", "nothing", 409, "there is no model folder nothing"),
        ("PUT", "/tasks/labels", "edit", 409, "edit is not a taskheads model"),
        ("PUT", "/tasks/labels", "other", 409, "another backbone"),
        ("PUT", "/tasks/topic", "second", 409, "no task 'topic'"),
        ("PUT", "/tasks/labels", "../second", 422, "slashes"),
        ("PUT", "/tasks/labels", "..", 422, "slashes"),
        ("DELETE", "/tasks/nothing", None, 409, "no task 'nothing'"),
        ("PUT", "/edits/topic", "second", 409, "second is not a whole edit"),
        ("PUT", "/edits/size", "edit", 409, "does not serve 'size'"),
        ("PUT", "", "nothing", 409, "there is no model folder nothing"),
    ],
)
def test_a_change_that_cannot_be_made_changes_nothing(
    served: Served, beside: Path, method: str, path: str, folder: str | None, status: int, detail: str
) -> None:
    before = answers(served), str(served.version)
    body = None if folder is None else {"folder": folder}
    answer = served.client.request(method, ADMIN + path, json=body)
    assert answer.status_code == status
    assert detail in answer.json()["detail"]
    assert str(beside) not in answer.text
    assert (answers(served), str(served.version)) == before


def test_nothing_is_changed_without_a_token(beside: Path) -> None:
    with serving(beside / "first") as served:
        answer = served.client.delete(f"{ADMIN}/tasks/size")
        assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
        assert "size" in answers(served)[0]


def test_a_request_is_answered_by_the_version_that_took_it(
    served: Served, beside: Path, held: threading.Event
) -> None:
    """Even where its task is gone when its turn comes."""
    found: list[httpx.Response] = []
    body = {"inputs": "lazy dogs", "tasks": ["size"]}
    asking = threading.Thread(target=lambda: found.append(served.post("/v1/predict", body)))
    asking.start()
    until(lambda: served.service.batcher.tokens or served.service.batcher.busy)
    changed(served.client.delete(f"{ADMIN}/tasks/size"))
    held.set()
    asking.join()
    assert found[0].json()["answers"] == Model.load(beside / "first").predict(["lazy dogs"], tasks=["size"])
    assert served.post("/v1/predict", body).status_code == 422


def test_no_request_fails_while_models_are_changed_under_load(served: Served) -> None:
    """Eight clients ask without a pause while tasks and edits come and go and the model is read again; every
    answer is one that some version gives."""
    done, failed, asked = threading.Event(), [], [0] * 8

    def ask(number: int) -> None:
        with httpx.Client(base_url=served.address, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
            while not done.is_set():
                body = {"inputs": [f"text {asked[number]} of {number}", "home"], "tasks": ["topic", "names"]}
                answer = client.post("/v1/predict", json=body)
                if answer.status_code != 200 or set(answer.json()["answers"][0]) != {"topic", "names"}:
                    failed.append(answer.text)
                asked[number] += 1

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for client in clients:
        client.start()
    ask_admin: list[Callable[[], httpx.Response]] = [
        lambda: served.client.put(f"{ADMIN}/tasks/labels", json={"folder": "second"}),
        lambda: served.client.put(f"{ADMIN}/edits/topic", json={"folder": "edit"}),
        lambda: served.client.put(f"{ADMIN}/tasks/size", json={"folder": "second"}),
        lambda: served.client.delete(f"{ADMIN}/tasks/labels"),
        lambda: served.client.put(ADMIN),
    ]
    versions = {changed(change())["model"] for _ in range(3) for change in ask_admin}
    done.set()
    for client in clients:
        client.join()
    assert not failed
    assert len(versions) == 5
    assert min(asked) > 0
