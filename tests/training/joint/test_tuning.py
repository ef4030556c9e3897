"""What tuning promises: nobody is worse off, what is shared is shared, and a saved model answers the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import taskheads as th
from taskheads.backbone.branching import Branch, branched, own_tensors
from taskheads.errors import ConfigError, TrainingError
from taskheads.model.model import Model
from taskheads.report.page import page
from taskheads.tasks.suite import Suite
from taskheads.training.joint.loop import Run
from taskheads.training.joint.recipe import Recipe
from taskheads.training.solving import solve
from tests.small_models import tiny_backbone
from tests.training.joint.planted import planted

NAMES = ("topic", "size", "names", "find")
QUICK = {"steps": 8, "tokens": 128, "lr": 1e-3, "patience": 9}
ROWS = [
    {"text": "lazy dogs jump over the fox", "query": "home", "doc": "brown home"},
    {"text": "brown words"},
]


def suite(*names: str) -> Suite:
    return Suite({name: planted(name, 60) for name in names or NAMES}, "tiny", 0)


def tuned(tune: str = "auto", **training: Any) -> Model:
    return th.fit(suite(), backbone=tiny_backbone(), tune=tune, training=QUICK | training)


def test_no_task_ends_worse_on_dev_than_it_was_frozen() -> None:
    model = tuned(lr=0.3)  # a rate at which sharing harms
    for name, card in model.card["tasks"].items():
        assert card["dev"] == max(card["tried"].values()), name
        assert card["tried"]["frozen"] <= card["dev"]
    assert {card["kept"] for card in model.card["tasks"].values()} != {"shared"}


def test_a_task_that_stays_frozen_answers_as_if_nothing_had_been_tuned() -> None:
    frozen, model = tuned("frozen"), tuned(lr=0.3)
    kept = [name for name, card in model.card["tasks"].items() if card["kept"] == "frozen"]
    assert kept
    before, after = frozen.predict(ROWS, tasks=kept), model.predict(ROWS, tasks=kept)
    assert before == after
    for name, each in frozen.backbone.model.named_parameters():
        assert torch.equal(each, model.backbone.model.get_parameter(name))


def test_full_keeps_the_shared_backbone_for_all_as_the_models_own() -> None:
    model = tuned("full")
    assert {card["kept"] for card in model.card["tasks"].values()} == {"shared"}
    assert (model.branches, model.branch_of) == ({}, {})
    moved = [
        name
        for name, each in tiny_backbone().model.named_parameters()
        if not torch.equal(each, model.backbone.model.get_parameter(name))
    ]
    assert len(moved) > 10


def numbers(answer: Any) -> list[float]:
    """All numbers in an answer, in order."""
    if isinstance(answer, dict | list):
        inside = answer.values() if isinstance(answer, dict) else answer
        return [number for each in inside for number in numbers(each)]
    return [answer] if isinstance(answer, float) else []


@pytest.mark.parametrize(("tune", "minutes"), [("full", 8.0), ("auto", 6.0)])
def test_time_for_private_layers_is_left_only_where_there_may_be_some(
    monkeypatch: pytest.MonkeyPatch, tune: str, minutes: float
) -> None:
    given, train = list[Recipe](), Run.train
    monkeypatch.setattr(Run, "train", lambda run: (given.append(run.recipe), train(run))[1])
    tuned(tune, minutes=8)
    assert given[0].minutes == minutes


def test_a_group_of_tasks_is_tuned_as_if_there_were_no_other(tmp_path: Path) -> None:
    whole = tuned("full", groups=[["topic", "names"], ["size", "find"]])
    half = QUICK | {"steps": QUICK["steps"] // 2}
    for group in (("topic", "names"), ("size", "find")):
        alone = th.fit(suite(*group), backbone=tiny_backbone(), tune="full", training=half)
        # Equal up to rounding, which training makes larger: features are computed in other batches.
        for answer, other in zip(whole.predict(ROWS, tasks=group), alone.predict(ROWS), strict=True):
            assert numbers(answer) == pytest.approx(numbers(other), abs=2e-3)
    assert set(whole.branch_of.values()) == {"shared topic+names", "shared size+find"}
    whole.save(tmp_path / "m")
    assert Model.load(tmp_path / "m").predict(ROWS) == whole.predict(ROWS)
    assert {each["kept"] for each in (whole.report or {})["tasks"].values()} == {"shared"}


def test_groups_are_every_task_once() -> None:
    with pytest.raises(ConfigError, match=r"groups = topic, size \| size: each task once"):
        tuned("full", groups=[["topic", "size"], ["size"]])


def test_the_training_may_say_how_to_tune() -> None:
    said = th.fit(suite("topic"), backbone=tiny_backbone(), training=QUICK | {"tune": "frozen"})
    assert said.card["tasks"]["topic"].get("kept") is None
    over = th.fit(suite("topic"), backbone=tiny_backbone(), tune="full", training=QUICK | {"tune": "frozen"})
    assert over.card["tasks"]["topic"]["kept"] == "shared"


def test_heads_solved_before_are_gone_on_from() -> None:
    base, data = tiny_backbone(), suite()
    solved = solve(base, data)
    for tune in ("frozen", "full"):
        again = th.fit(data, backbone=base, tune=tune, training=QUICK, solved=solved)
        assert again.predict(ROWS) == tuned(tune).predict(ROWS)


def test_scores_in_the_card_are_those_of_the_model_that_was_saved(tmp_path: Path) -> None:
    data = suite()
    made = th.fit(data, backbone=tiny_backbone(), out=tmp_path / "m", training=QUICK)
    loaded = th.load(tmp_path / "m")
    assert loaded.predict(ROWS) == made.predict(ROWS)
    for score in loaded.evaluate(data):
        assert score.value == pytest.approx(loaded.card["tasks"][score.task]["test"]["value"], abs=1e-6)


def test_branches_share_what_they_do_not_own_and_come_back_from_disk(tmp_path: Path) -> None:
    base = tiny_backbone()
    own = {name: each + 0.5 for name, each in base.model.named_parameters() if "layer.1" in name}
    shared = branched(base, own)
    private = branched(shared, {name: each + 1.0 for name, each in own.items() if "output" in name})
    assert own_tensors(shared, base).keys() == own.keys()
    pointers = {each.data_ptr() for each in base.model.parameters()}
    assert {n for n, p in shared.model.named_parameters() if p.data_ptr() not in pointers} == own.keys()
    frozen = th.fit(suite(), backbone=base, tune="frozen")
    branches = {"shared": Branch(shared), "own": Branch(private, "shared")}
    model = Model(base, frozen.heads, frozen.card, branches, {"topic": "shared", "size": "own"})
    model.save(tmp_path / "m")
    loaded = Model.load(tmp_path / "m")
    assert loaded.predict(ROWS) == model.predict(ROWS)
    for task, of in {"topic": shared, "size": private, "names": base}.items():
        assert loaded.backbone_of(task).fingerprint == of.fingerprint
    deep = loaded.branches["own"].backbone.model.parameters()
    here = {p.data_ptr() for p in loaded.backbone.model.parameters()}
    assert any(p.data_ptr() in here for p in deep)
    before = loaded.predict(ROWS, tasks=["size", "names"])
    loaded.remove("topic")
    assert loaded.predict(ROWS, tasks=["size", "names"]) == before
    assert list(loaded.branches) == ["shared", "own"]
    loaded.remove("size")
    assert not loaded.branches


def test_a_fit_that_is_stopped_goes_on_with_resume(tmp_path: Path) -> None:
    folder, backbone = tmp_path / "m", tiny_backbone()

    def stop(stage: str, course: Any) -> None:
        if (stage, course.step) == ("shared", 5):
            raise KeyboardInterrupt

    whole = th.fit(suite(), backbone=backbone, training=QUICK)
    with pytest.raises(TrainingError, match="--resume"):
        th.fit(suite(), backbone=backbone, out=folder, training=QUICK, watch=stop)
    assert not folder.exists()
    resumed = th.fit(suite(), backbone=backbone, out=folder, training=QUICK, resume=True)
    assert resumed.predict(ROWS) == whole.predict(ROWS)
    assert {n: c["tried"] for n, c in resumed.card["tasks"].items()} == {
        n: c["tried"] for n, c in whole.card["tasks"].items()
    }
    assert not (tmp_path / "m.training").exists()


@pytest.mark.parametrize(
    "said",
    [
        {"weighting": "uncertainty"},
        {"weighting": "dynamic_weight_average"},
        {"weighting": "slaw"},
        {"balance": "pcgrad"},
        {"balance": "upgrad"},
        {"balance": "nash_mtl"},
        {"balance": "mgda_at_representation"},
    ],
)
def test_every_way_of_joining_tasks_trains_and_resumes(said: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("torchjd")
    from tests.training.joint.planted import numbers, run_of

    whole = run_of(said)
    whole.train()

    def stop(course: Any) -> None:
        if course.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(TrainingError):
        run_of(said, folder=tmp_path, watch=stop).train()
    resumed = run_of(said, folder=tmp_path)
    resumed.train()
    assert numbers(resumed) == numbers(whole)


def test_balancing_a_single_task_is_the_plain_step() -> None:
    pytest.importorskip("torchjd")
    from tests.training.joint.planted import run_of

    plain, balanced = (run_of(said, ("topic",)) for said in ({}, {"balance": "upgrad"}))
    plain.train(), balanced.train()
    for name, each in plain.weights.items():
        torch.testing.assert_close(balanced.weights[name], each, rtol=1e-3, atol=1e-4)


def test_the_report_tells_of_every_way_and_can_be_drawn() -> None:
    model = tuned(alone=True)
    report = model.report
    assert report is not None
    for name in NAMES:
        ways = report["tasks"][name]["scores"]
        assert {"majority", "frozen", "shared", "alone"} <= ways.keys()
        kept = report["tasks"][name]["kept"]
        assert ways[kept]["value"] == pytest.approx(model.card["tasks"][name]["test"]["value"])
    likeness = torch.tensor(report["similarity"]["gradient"])
    torch.testing.assert_close(likeness.diagonal(), torch.ones(4))
    apart = torch.tensor(report["similarity"]["representation"])
    torch.testing.assert_close(apart, apart.T)
    assert ((apart > 0) & (apart < 1)).sum() == 12  # tuned for each task alone
    drawn = page(report)
    assert "linear CKA" in drawn
    assert all(name in drawn for name in NAMES)
