"""A comparison: what it may look at, what it goes on from, what it recommends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import taskheads as th
from taskheads.compare import bench
from taskheads.compare.bench import Bench, Result, Run
from taskheads.compare.comparing import compare
from taskheads.compare.ledger import Ledger
from taskheads.compare.ways import way_of
from taskheads.errors import ConfigError, Interrupted
from taskheads.model.model import Model
from tests.compare.small import AMPLE, QUICK, compared, suite, written
from tests.small_models import tiny_backbone

METHODS = ["frozen", "full", "ia3", "lora"]
ROWS = [{"text": "lazy dogs jump over the fox"}, {"text": "brown words"}]
# What a clock and a memory say.
MEASURED = {"seconds", "test_seconds", "peak_bytes", "latency_ms", "created"}


def told(found: Any) -> Any:
    """A comparison without what was measured."""
    if isinstance(found, dict):
        return {key: told(each) for key, each in found.items() if key not in MEASURED}
    return [told(each) for each in found] if isinstance(found, list) else found


def test_no_run_has_the_test_rows_and_the_end_looks_at_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    looked: list[str] = []

    def fitted(of: Any, **more: Any) -> Model:
        seen.extend(len(data.splits["test"]) for data in of.tasks.values())
        return th.fit(of, **more)

    def features(model: Model, rows: Any, *more: Any) -> Any:
        looked.append(model.card["created"])
        return real(model, rows, *more)

    real = Model.features
    monkeypatch.setattr(bench, "fit", fitted)
    monkeypatch.setattr(Model, "features", features)
    found = compared(tmp_path / "out", METHODS)
    assert seen
    assert not any(seen)
    assert len(looked) == sum(way["test"] is not None for way in found["ways"])


def test_without_time_there_are_the_frozen_heads(tmp_path: Path) -> None:
    found = compared(tmp_path / "out", METHODS, budget=1e-9)
    (only,) = found["ways"]
    assert (only["method"], only["part"], only["key"]) == ("frozen", 1.0, found["recommended"])
    assert found["left_out"] == dict.fromkeys(METHODS[1:], "the time was over before its first run")


def test_a_training_is_stopped_when_all_its_time_is_over() -> None:
    here = Bench(suite(("size",)), tiny_backbone(), th.FeatureCache(limit_bytes=0))
    way = way_of("full")
    assert way is not None
    result = here.run(Run(way, 0, 1.0, minutes=1000.0, seconds=0.0))
    assert result.problem is not None
    assert result.problem.startswith("its time was over after step 1 of ")
    assert not result.dev


@pytest.mark.parametrize(("part", "said", "looks"), [(0.5, 6, 2), (0.5, 1, 1), (1.0, 6, 6)])
def test_a_training_on_a_part_of_the_rows_looks_at_dev_twice_at_most(
    monkeypatch: pytest.MonkeyPatch, part: float, said: int, looks: int
) -> None:
    taken: list[int] = []

    def fitted(of: Any, *, training: Any, **more: Any) -> Model:
        taken.append((of.training | training)["evaluations"])
        return th.fit(of, training=training, **more)

    monkeypatch.setattr(bench, "fit", fitted)
    few = replace(suite(("size",)), training={"steps": 6, "evaluations": said})
    way = way_of("full")
    assert way is not None
    Bench(few, tiny_backbone(), th.FeatureCache(limit_bytes=0)).run(Run(way, 0, part))
    assert taken == [looks]


def test_a_rung_on_all_rows_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "FEWEST", 200)
    found = compared(tmp_path / "out", ["ia3", "bitfit", "lora"])
    assert {way["part"] for way in found["ways"]} == {1.0}
    assert len(list((tmp_path / "out" / "runs").glob("*.json"))) == len(found["ways"])


def test_stopped_anywhere_it_goes_on_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compared(tmp_path / "whole", METHODS, seeds=2)
    real, ran = Bench.run, list[str]()

    def stopped(self: Bench, run: Run) -> Result:
        if len(ran) in (3, 8):
            ran.append("stopped")
            raise Interrupted("stopped")
        ran.append(run.name)
        return real(self, run)

    monkeypatch.setattr(Bench, "run", stopped)
    with pytest.raises(Interrupted):
        compared(tmp_path / "out", METHODS, seeds=2)
    with pytest.raises(Interrupted):
        compared(tmp_path / "out", METHODS, seeds=2, resume=True)
    resumed = compared(tmp_path / "out", METHODS, seeds=2, resume=True)
    done = [name for name in ran if name != "stopped"]
    assert len(set(done)) == len(done), "something was run twice"
    assert told(resumed) == told(whole)
    assert not list((tmp_path / "out").rglob("*.partial"))
    again = compared(tmp_path / "out", METHODS, seeds=2, resume=True)
    assert again == resumed, "a comparison that has ended is read"


def test_ctrl_c_in_a_training_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = QUICK | {"steps": 6, "evaluations": 3}
    whole = compared(tmp_path / "whole", ["full"], training=training)
    stops, real = iter([False, False, False, True]), Bench.__init__
    monkeypatch.setattr(
        Bench, "__init__", lambda self, *given: real(self, *given, lambda: next(stops, False))
    )
    with pytest.raises(Interrupted, match="step 4 of 6"):
        compared(tmp_path / "out", ["full"], training=training)
    assert told(compared(tmp_path / "out", ["full"], training=training, resume=True)) == told(whole)


def test_fit_takes_what_is_recommended_and_makes_the_same_model(tmp_path: Path) -> None:
    # Steps enough that tuning wins: which way does is told by the last bits of a shorter training.
    training = {"tokens": 128, "steps": 20, "lr": 5e-3, "evaluations": 2}
    path = written(tmp_path, ("topic", "names"), 40, training)
    found = compare(path, out=tmp_path / "out", methods=["full", "ia3"], budget=AMPLE)
    best = found["ways"][0]
    model = th.fit(tmp_path / "out" / "recommended.yaml", out=tmp_path / "again")
    assert {name: card["dev"] for name, card in model.card["tasks"].items()} == best["dev"]
    assert model.predict(ROWS) == th.load(tmp_path / "out" / "model").predict(ROWS)
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found


def test_options_of_an_edit_are_recommended_too(tmp_path: Path) -> None:
    from taskheads.compare.recommending import recommended
    from taskheads.compare.ways import Way
    from taskheads.tasks.suite import load_suite

    path = written(tmp_path)
    way = Way("lora", {"tune": "lora", "edit_lr": 0.01}, {"rank": 2})
    (tmp_path / "new.yaml").write_text(
        recommended(path, load_suite(path), way, Result(way.to_json(), 3, 1.0, steps=2))
    )
    assert all(
        data.edit == ("lora", {"rank": 2}) for data in load_suite(tmp_path / "new.yaml").tasks.values()
    )
    model = th.fit(tmp_path / "new.yaml")
    assert model.card["seed"] == 3
    assert all("lora" in card["tried"] for card in model.card["tasks"].values())


def test_scores_are_those_of_evaluate_and_differences_are_paired(tmp_path: Path) -> None:
    data = suite()
    found = compared(tmp_path / "out", ["full"], suite=data)
    best, other = found["ways"]
    model = th.load(tmp_path / "out" / "model")
    scores = {each.task: each for each in model.evaluate(data)}
    for name, each in best["test"]["tasks"].items():
        assert each["value"] == pytest.approx(scores[name].value, abs=1e-6)
        assert (each["low"], each["high"]) == pytest.approx((scores[name].low, scores[name].high), abs=1e-6)
    mean = np.mean([each["value"] for each in best["test"]["tasks"].values()])
    assert best["test"]["mean"]["value"] == pytest.approx(mean)
    assert set(best["test"]["beside"].values()) == {0.0}
    difference = other["test"]["mean"]["value"] - best["test"]["mean"]["value"]
    assert other["test"]["beside"]["value"] == pytest.approx(difference)


def test_costs_count_what_was_trained() -> None:
    base = tiny_backbone()
    few = Bench(suite(("topic",)), base, th.FeatureCache(limit_bytes=0))

    def parameters(method: str) -> int:
        way = way_of(method)
        assert way is not None
        model = th.fit(way.applied(few.suite), backbone=base, training=QUICK)
        heads = sum(each.nbytes for head in model.heads.values() for each in head.state_dict().values())
        count, size = bench.costs(model, base)
        assert size >= heads + 4 * count
        return count

    assert parameters("frozen") == 0
    assert parameters("full") == sum(each.numel() for each in base.model.parameters() if each.requires_grad)


@pytest.mark.parametrize(
    ("methods", "more", "said"),
    [
        (["lroa"], {}, r"no method is called 'lroa' \(did you mean 'lora'\?\)"),
        (["linear_cka"], {}, "linear_cka is no way of fitting a suite: it is a measure"),
        (["soft_injection"], {}, "soft_injection is no way of .*: it changes answers at inference"),
        (["twin_merging"], {}, "twin_merging is no way of fitting a suite: it needs a router"),
        (["ties"], {"suite": suite(("size",))}, "one model of several, .* there is one task"),
        (["ptec"], {"suite": suite(("size",))}, "is for tasks of the kind multilabel or classify"),
        (["pcgrad"], {"suite": suite(("size",))}, "there is one task"),
        (["ia3"], {"jobs": 2}, "its folder or its name"),
        (None, {"family": "edit"}, r"no family 'edit' \(did you mean 'edits'\?\)"),
        (None, {"family": "trust"}, "no method of the family trust is a way of fitting"),
        (["lora"], {"training": {"lrr": 1}}, "training has no 'lrr'"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_runs(
    methods: list[str] | None, more: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        compared(tmp_path / "out", methods, **more)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_backbone_in_few_bits_is_compared_as_it_is(tmp_path: Path) -> None:
    low = tiny_backbone(precision="bfloat16")
    for method in ("full", "pcgrad", "linear"):
        with pytest.raises(ConfigError, match="in bfloat16 cannot be tuned"):
            compared(tmp_path / "out", [method], backbone=low)
    assert not (tmp_path / "out").exists()
    found = compared(tmp_path / "out", ["ia3"], backbone=low)
    assert {way["method"] for way in found["ways"]} == {"frozen", "ia3"}


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="no comparison"):
        compared(tmp_path, ["full"])
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_another_comparison_is_not_gone_on_with(tmp_path: Path) -> None:
    Ledger(tmp_path / "out", {"seeds": 1}, resume=False)
    with pytest.raises(ConfigError, match="another seeds"):
        Ledger(tmp_path / "out", {"seeds": 2}, resume=True)
    Ledger(tmp_path / "out", {"seeds": 2}, resume=False)


def test_a_training_that_diverges_is_left_out_and_said(tmp_path: Path) -> None:
    found = compared(tmp_path / "out", ["full", "lora"], training=QUICK | {"lr": 1e30, "clip": 1e30})
    assert set(found["left_out"]) == {"full"}
    assert "became" in found["left_out"]["full"]
    assert {way["method"] for way in found["ways"]} == {"frozen", "lora"}


def test_a_search_tries_variants_beside(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    found = compared(tmp_path / "out", ["ia3", "lora"], search=3)
    names = {way["name"] for way in found["ways"]}
    assert {"frozen", "ia3", "lora"} < names, "variants are called after what sets them apart"
    variants = [way for way in found["ways"] if way["name"] != way["method"]]
    assert {way["method"] for way in variants} <= {"ia3", "lora"}
    assert all("edit_lr" in way["training"] for way in variants)


def test_a_kill_before_the_models_are_tidied_away_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("taskheads.compare.comparing._tidy", killed)
        with pytest.raises(KeyboardInterrupt):
            compared(tmp_path / "out", ["ia3"])
    found = compared(tmp_path / "out", ["ia3"], resume=True)
    assert found == json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert th.load(tmp_path / "out" / "model").tasks
    assert not (tmp_path / "out" / "models").exists()


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    path = written(tmp_path)
    one, two = (
        compare(path, out=tmp_path / str(jobs), methods=["full", "ia3"], budget=AMPLE, jobs=jobs)
        for jobs in (1, 2)
    )
    assert {way["key"]: way["dev"] for way in one["ways"]} == {way["key"]: way["dev"] for way in two["ways"]}
