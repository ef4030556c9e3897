"""A model of many tasks: what one task does must not show in another's answers."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import taskheads as th
from taskheads.backbone.backbone import Backbone
from taskheads.errors import ConfigError
from taskheads.model import prediction as module
from taskheads.model.model import Model
from taskheads.tasks.suite import Suite
from taskheads.tasks.task import Task
from taskheads.training.fit import add, fit
from tests.heads.planted import make_task
from tests.small_models import KINDS, rows, tiny_backbone, tiny_head, tiny_model
from tests.training.planted import split_data

SOURCES = Path(th.__file__).parent


def without(answers: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [{task: answer for task, answer in row.items() if task != name} for row in answers]


@pytest.mark.parametrize("name", list(KINDS))
def test_removing_a_task_leaves_all_other_answers_bit_for_bit(name: str) -> None:
    """For every task, whether it shares columns, passes and heights with the others or not."""
    model = tiny_model()
    # Rows that have the columns of all tasks, of some, and bare texts.
    asked = [*rows(9), "the lazy dogs", {"title": "often"}, {"query": "quick fox"}, *rows(3)]
    before = model.predict(asked, scores=True)
    model.remove(name)
    assert name not in model.tasks
    assert name not in model.card["tasks"]
    assert model.predict(asked, scores=True) == without(before, name)


@pytest.mark.parametrize("name", list(KINDS))
def test_a_further_head_leaves_all_other_answers_bit_for_bit(name: str) -> None:
    model = tiny_model([other for other in KINDS if other != name])
    asked = [*rows(9), "the lazy dogs", {"title": "often"}]
    before = model.predict(asked, scores=True)
    model.heads[name] = tiny_head(name, model.backbone)
    assert without(model.predict(asked, scores=True), name) == before


@pytest.mark.parametrize("name", list(KINDS))
def test_a_task_answers_alone_as_among_others(name: str) -> None:
    asked = rows(9)
    among = tiny_model().predict(asked, scores=True)
    alone = tiny_model([name]).predict(asked, scores=True)
    assert alone == [{name: answer[name]} for answer in among]


def small_suite(kind: str, seed: int, name: str = "new") -> Suite:
    texts = [row["text"] + f" {i}" for i, row in enumerate(rows(60))]
    made: dict[str, tuple[Task, Callable[[int], Any]]] = {
        "classify": (make_task("classify", "abc", name=name), lambda i: "abc"[(i * seed) % 3]),
        "regress": (make_task("regress", name=name), lambda i: float((i * seed) % 7)),
    }
    task, target = made[kind]
    data = split_data(task, texts, targets=[target(i) for i in range(60)], dev=15, test=15)
    return Suite({name: data}, "tiny", 0)


@pytest.mark.parametrize("kind", ["classify", "regress"])
def test_adding_a_task_leaves_weights_and_answers_bit_for_bit(kind: str) -> None:
    model = tiny_model(["topic", "names", "like", "other"])
    asked = rows(9)
    before = model.predict(asked, scores=True)
    weights = copy.deepcopy(model.backbone.model.state_dict())
    heads = {name: copy.deepcopy(head.state_dict()) for name, head in model.heads.items()}
    assert add(model, small_suite(kind, 5)) == ["new"]
    assert without(model.predict(asked, scores=True), "new") == before
    assert all(torch.equal(weights[key], value) for key, value in model.backbone.model.state_dict().items())
    for name, state in heads.items():
        assert all(torch.equal(state[key], value) for key, value in model.heads[name].state_dict().items())
    model.remove("new")
    assert model.predict(asked, scores=True) == before


def test_heads_of_different_width_stand_in_one_batch() -> None:
    model = tiny_model(["topic", "size", "labels"])
    widths = {name: head.features for name, head in model.heads.items()}
    assert len(set(widths.values())) == 2
    together = model.predict(rows(7), scores=True)
    for name in widths:
        alone = model.predict(rows(7), tasks=[name], scores=True)
        assert [answer[name] for answer in together] == [answer[name] for answer in alone]


class Boom(Exception):
    pass


@pytest.mark.parametrize("where", ["layer", "head"])
def test_an_exception_inside_a_forward_leaves_nothing_behind(where: str) -> None:
    model = tiny_model()
    asked = rows(7)
    before = model.predict(asked, scores=True)
    broken: nn.Module = model.backbone.layout.layers[1] if where == "layer" else model.heads["same"]

    def fail(*_: Any) -> None:
        raise Boom

    handle = broken.register_forward_pre_hook(fail)
    with pytest.raises(Boom):
        model.predict(asked)
    handle.remove()
    hooks = [m for m in model.backbone.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    assert model.predict(asked, scores=True) == before


def test_a_task_without_any_label_moves_no_other() -> None:
    """Its splits are empty: fitting it alone is an error, and the model stays as it was."""
    model = tiny_model(["topic"])
    before = model.predict(rows(5), scores=True)
    suite = small_suite("classify", 5)
    for examples in suite.tasks["new"].splits.values():
        examples.targets.clear()
        examples.sources.clear()
        examples.inputs[0].clear()
    with pytest.raises(Exception):  # noqa: B017, PT011
        add(model, suite)
    assert list(model.tasks) == ["topic"]
    assert model.predict(rows(5), scores=True) == before


def test_a_stream_of_any_length_answers_as_a_list_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(["topic", "names", "like"])
    monkeypatch.setattr(module, "BLOCK", 10)
    asked = rows(27)
    taken = 0

    def source() -> Iterator[dict[str, str]]:
        nonlocal taken
        for row in asked:
            taken += 1
            yield row

    stream = model.predict_stream(source(), scores=True)
    first = next(stream)
    assert taken == 10
    assert [first, *stream] == model.predict(asked, scores=True)
    assert taken == 27


def test_rows_are_counted_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(["topic"])
    monkeypatch.setattr(module, "BLOCK", 4)
    with pytest.raises(th.TaskheadsError, match="row 7"):
        list(model.predict_stream(["a fox"] * 6 + [""]))


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    model = tiny_model(["topic", "names"])
    for ask in (lambda: model.predict(["a"], tasks=["topics"]), lambda: model.remove("topics")):
        with pytest.raises(
            ConfigError, match=r"no task 'topics'.*did you mean 'topic'.*tasks are topic, names"
        ):
            ask()
    assert list(model.tasks) == ["topic", "names"]


def test_a_model_may_lose_its_last_task() -> None:
    model = tiny_model(["topic"])
    model.remove("topic")
    for tasks in (None, ["topic"]):
        with pytest.raises(ConfigError, match="the model has no task to answer"):
            model.predict(["a fox", "dogs"], tasks=tasks)


def test_predicting_needs_no_gradients_and_no_training_mode() -> None:
    model = tiny_model()
    model.predict(rows(3))
    assert all(parameter.grad is None for parameter in model.backbone.model.parameters())
    assert not any(part.training for part in [model.backbone.model, *model.heads.values()])
    json.dumps(model.predict(rows(3), scores=True))


def test_scores_of_fitting_are_found_again() -> None:
    backbone = tiny_backbone()
    suite = small_suite("classify", 5)
    model = fit(suite, tune="frozen", backbone=backbone)
    (score,) = model.evaluate(suite)
    assert score.to_json() == model.card["tasks"]["new"]["test"]
    assert score.baseline is not None


def test_nothing_is_ever_unpickled() -> None:
    """Weights are safetensors; nobody reads what could run code. AdapterHub's older files have no other form
    than torch's: of these its reader of tensors alone takes what it can."""
    forbidden = re.compile(r"\b(pickle|joblib|dill|torch\.load|torch\.save|trust_remote_code|eval\(|exec\()")
    allowed = re.compile(r"\.eval\(\)|trust_remote_code=False|weights_only=True")
    found = [
        f"{path.relative_to(SOURCES)}: {line.strip()}"
        for path in SOURCES.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if forbidden.search(line) and not allowed.search(line)
    ]
    assert not found


def test_importing_the_model_is_silent_and_stays_off_the_network() -> None:
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('the network was asked for')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import torch; version = torch.__version__\n"
        "import taskheads.model.model, taskheads.training.fit\n"
        "assert torch.__version__ == version\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_backbone_may_be_shared_by_models() -> None:
    backbone: Backbone = tiny_backbone()
    one, two = tiny_model(["topic"], backbone), tiny_model(["names"], backbone)
    before = one.predict(rows(4))
    two.predict(rows(4))
    assert isinstance(one, Model)
    assert one.predict(rows(4)) == before
