"""Tuning by edits: what each task may change, trained together, and nobody else touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import taskheads as th
from taskheads.edits.edit import edit_class, edit_methods, made
from taskheads.errors import ConfigError, TrainingError
from taskheads.model.model import Model
from taskheads.report.page import page
from taskheads.tasks.suite import Suite
from taskheads.training.joint.editing import serves
from tests.edits.planted import stirred
from tests.small_models import tiny_backbone
from tests.training.joint.planted import planted

QUICK = {"steps": 30, "tokens": 128, "edit_lr": 1e-2, "evaluations": 2, "minutes": None}
NAMES = ("topic", "size", "names", "find")
TEXTS = ["brown fox jumps over the lazy dog", "the dog runs home", "lazy"]


def suite(*names: str, **edits: tuple[str, dict]) -> Suite:
    tasks = {name: planted(name) for name in names or NAMES}
    for name, edit in edits.items():
        tasks[name].edit = edit
    return Suite(tasks, "tiny", 0)


def fit(data: Suite, tune: str, **more: Any) -> Model:
    return th.fit(
        data, backbone=more.pop("backbone", None) or tiny_backbone(), tune=tune, training=QUICK, **more
    )


def answers(model: Model) -> list:
    return model.predict(TEXTS, scores=True)


def with_edits() -> Model:
    """A model whose tasks but one have an edit, one of them shared by two, that changes their answers."""
    model = fit(suite(), "frozen")
    model.edits["topic"] = stirred(made("lora", model.backbone, ["topic"], {"rank": 2}))
    model.edits |= dict.fromkeys(["size", "find"], stirred(made("ia3", model.backbone, ["size", "find"])))
    for edit in model.edits.values():
        edit.eval()
    return model


def test_lora_leaves_the_backbone_and_each_task_keeps_what_is_best() -> None:
    backbone = tiny_backbone()
    before = {name: each.clone() for name, each in backbone.model.state_dict().items()}
    model = fit(suite(), "lora", backbone=backbone)
    assert all(torch.equal(before[name], each) for name, each in backbone.model.state_dict().items())
    assert all(each.requires_grad for each in backbone.model.parameters())
    for name, card in model.card["tasks"].items():
        assert set(card["tried"]) == {"frozen", "lora"}
        assert card["dev"] == card["tried"][card["kept"]] == max(card["tried"].values())
        assert (name in model.edits) == (card["kept"] == "lora")
    assert "lora" in page(model.report)


def test_a_saved_model_answers_with_its_edits_bit_by_bit(tmp_path: Path) -> None:
    model = with_edits()
    plain = fit(suite(), "frozen")
    assert [row["size"] for row in answers(model)] != [row["size"] for row in answers(plain)]
    assert [row["names"] for row in answers(model)] == [row["names"] for row in answers(plain)]
    model.save(tmp_path / "m")
    again = th.load(tmp_path / "m")
    assert answers(again) == answers(model)
    assert again.edits["size"] is again.edits["find"]
    assert len(list((tmp_path / "m" / "edits").iterdir())) == 2


@pytest.mark.parametrize("gone", ["topic", "size", "names"])
def test_removing_a_task_changes_no_bit_of_the_others(gone: str, tmp_path: Path) -> None:
    model = with_edits()
    before = answers(model)
    model.remove(gone)
    assert gone not in model.edits
    assert answers(model) == [{n: a for n, a in row.items() if n != gone} for row in before]
    model.save(tmp_path / "m")
    assert answers(th.load(tmp_path / "m")) == answers(model)


def test_adding_a_task_with_an_edit_changes_no_bit_of_the_others() -> None:
    model = fit(suite("topic", "size"), "lora")
    before = answers(model)
    assert th.add(model, suite("names"), tune="ia3", training=QUICK) == ["names"]
    assert [{n: a for n, a in row.items() if n != "names"} for row in answers(model)] == before
    assert model.card["tasks"]["names"]["tried"].keys() == {"frozen", "ia3"}


def test_what_adding_cannot_do_leaves_the_model_as_it_was() -> None:
    model = fit(suite("topic"), "frozen")
    for tune, training, why in (("full", {}, "only fit can"), ("ia3", {"shard": True}, "this is one")):
        with pytest.raises(ConfigError, match=why):
            th.add(model, suite("names"), tune=tune, training=QUICK | training)
    assert set(model.heads) == {"topic"}


def test_each_task_may_ask_for_its_own() -> None:
    model = fit(suite("topic", "size", "names", topic=("ia3", {}), size=("lora", {"rank": 2})), "lora")
    tried = {name: set(card["tried"]) for name, card in model.card["tasks"].items()}
    assert tried == {name: {"frozen", "edits"} for name in ("topic", "size", "names")}
    methods = {name: edit.method for name, edit in model.edits.items()}
    assert methods.items() <= {"topic": "ia3", "size": "lora", "names": "lora"}.items()
    if "size" in model.edits:
        assert model.edits["size"].options == {"rank": 2}


def test_auto_takes_an_edit_that_a_task_asks_for_as_one_more_candidate() -> None:
    model = fit(suite("topic", "size", topic=("lora", {})), "auto")
    assert set(model.card["tasks"]["topic"]["tried"]) >= {"frozen", "shared", "lora"}
    assert "lora" not in model.card["tasks"]["size"]["tried"]


@pytest.mark.parametrize(
    ("method", "stopped_in", "step"),
    [
        ("lora", "lora", 20),
        ("lofit", "lofit, then", 5),
        ("icm_lora", "icm_lora", 7),
        ("icm_lora", "icm_lora, then", 1),
    ],
)
def test_a_fit_that_is_stopped_goes_on_with_resume(
    method: str, stopped_in: str, step: int, tmp_path: Path
) -> None:
    backbone, names = tiny_backbone(), ("size", "names")

    def stop(stage: str, course: Any) -> None:
        if (stage, course.step) == (stopped_in, step):
            raise KeyboardInterrupt

    whole = fit(suite(*names), method, backbone=backbone)
    with pytest.raises(TrainingError, match="--resume"):
        fit(suite(*names), method, backbone=backbone, out=tmp_path / "m", watch=stop)
    resumed = fit(suite(*names), method, backbone=backbone, out=tmp_path / "m", resume=True)
    assert answers(resumed) == answers(whole)
    for name in names:
        assert resumed.card["tasks"][name]["tried"] == whole.card["tasks"][name]["tried"]


@pytest.mark.parametrize("method", edit_methods())
def test_every_edit_can_be_asked_for_by_name(method: str, tmp_path: Path) -> None:
    model = th.fit(
        suite("topic", "names"),
        backbone=tiny_backbone(),
        tune=method,
        out=tmp_path / "m",
        training=QUICK | {"steps": 6 * edit_class(method).stages},
    )
    for card in model.card["tasks"].values():
        assert (method in card["tried"]) is serves(method, card["kind"])
    assert answers(th.load(tmp_path / "m")) == answers(model)


@pytest.mark.parametrize(
    ("tune", "edits", "said"),
    [
        ("lroa", {}, "tune = 'lroa' (did you mean 'lora'?)"),
        ("frozen", {"topic": ("lora", {})}, "nothing is tuned under frozen"),
        ("lora", {"topic": ("lora", {"rnak": 3})}, "no option 'rnak'"),
    ],
)
def test_mistakes_are_named_before_anything_is_computed(tune: str, edits: dict, said: str) -> None:
    def never(*_: Any) -> None:
        raise AssertionError

    with pytest.raises(ConfigError) as caught:
        fit(suite("topic", **edits), tune, progress=never)
    assert said in str(caught.value)


def test_a_method_that_is_for_none_of_the_tasks_is_refused() -> None:
    with pytest.raises(ConfigError, match="ptec is for tasks of the kind multilabel or classify"):
        fit(suite("size"), "ptec")


def test_balancing_edits_is_refused() -> None:
    with pytest.raises(ConfigError, match="balance"):
        th.fit(
            suite("topic", "size"),
            backbone=tiny_backbone(),
            tune="lora",
            training=QUICK | {"balance": "pcgrad"},
        )
