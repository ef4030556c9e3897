"""The parts of a comparison that are pure: rungs, the front, words, what a search may set."""

from __future__ import annotations

import math
from typing import Any

import pytest

from taskheads.compare.bench import Stopwatch
from taskheads.compare.crew import devices_here, places
from taskheads.compare.front import front, in_words
from taskheads.compare.halving import left, parts_of, ranked
from taskheads.compare.searching import Search, space_of
from taskheads.compare.ways import Way, apart, way_of
from taskheads.tasks.suite import Suite
from taskheads.training.joint.course import Course
from tests.small_models import tiny_backbone


def way(name: str, quality: float, parameters: int, high: float = -0.01) -> dict[str, Any]:
    test = {"mean": {"value": quality}, "beside": {"high": high}}
    told = {"key": name, "name": name, "method": name, "kept": {"a": "shared"}, "quality": 0.0, "test": test}
    return told | {"parameters": parameters}


def test_rungs_end_with_all_rows_and_each_has_a_third_of_the_candidates() -> None:
    assert parts_of(1) == parts_of(2) == [1.0]
    assert parts_of(5) == pytest.approx([1 / 3, 1])
    assert parts_of(40) == pytest.approx([1 / 27, 1 / 9, 1 / 3, 1])
    assert [left(40, rung) for rung in range(4)] == [40, 14, 5, 2]
    assert [left(1, rung) for rung in range(2)] == [1, 1]


def test_ranks_are_of_means_and_the_first_of_equals_stays_first() -> None:
    assert ranked({"a": [0.5, 0.5], "b": [0.9, 0.1], "c": [0.6]}) == ["c", "a", "b"]


def test_the_front_is_what_nothing_cheaper_matches() -> None:
    ways = [way("dear", 0.9, 100), way("good", 0.9, 10), way("worse", 0.7, 10), way("free", 0.8, 0)]
    assert front(ways) == ["free", "good"]


def test_the_front_in_words() -> None:
    ways = [
        way("full", 0.8, 10_000, high=0.0),
        way("lofit", 0.784, 2),
        way("lora", 0.7, 500),
        way("frozen", 0.6, 0),
    ]
    said = in_words(ways, "full")
    assert said == [
        "full is recommended: best on dev, and 0.800 on test in the mean.",
        "lofit keeps 98.0 % of full with 0.02 % of its parameters; nothing cheaper does better.",
        "frozen keeps 75.0 % of full and trains nothing beside its heads; nothing is cheaper.",
    ]


def test_a_merge_that_is_better_on_dev_is_named_and_not_recommended() -> None:
    ways = [way("ties", 0.9, 10_000), way("lora", 0.8, 100, high=0.0)]
    said = in_words(ways, "lora", ["ties"])
    assert (
        said[0]
        == "lora is recommended: best on dev of what `taskheads fit` makes, and 0.800 on test in the mean."
    )
    assert said[1] == "Better on dev, and made by `taskheads merge`: ties."


def test_the_rate_of_a_way_takes_the_place_of_the_suites_rates() -> None:
    said = Suite({}, "minilm", 0, training={"rates": [1e-4, 2e-4], "tokens": 64})
    assert way_of("full").applied(said).training == {"rates": [1e-4, 2e-4], "tokens": 64, "tune": "full"}
    assert Way("full", {"tune": "full", "lr": 3e-4}).applied(said).training == {
        "tokens": 64,
        "tune": "full",
        "lr": 3e-4,
    }


def test_the_steps_of_a_run_are_those_that_its_minutes_allowed() -> None:
    watch = Stopwatch(math.inf, lambda: False)
    for planned in (700, 700, 530, 530):
        watch("shared", Course(planned=planned))
    watch("private topic", Course(planned=20))
    assert watch.planned == 530


def test_a_search_may_set_what_the_signature_says() -> None:
    pytest.importorskip("optuna")
    lora = space_of("lora", layers=3, tasks=2)
    assert {name: default for name, (_, default) in lora.items()} == {
        "edit_lr": 1e-3,
        "rank": 8,
        "alpha": 16.0,
    }
    assert (lora["rank"][0].low, lora["rank"][0].high) == (2, 32)
    assert space_of("full", 3, 2)["frozen_layers"][0].high == 2
    assert "groups" in space_of("pcgrad", 3, 2)
    assert "groups" not in space_of("full", 3, 1)


def test_a_search_varies_the_best_and_finds_what_is_planted() -> None:
    pytest.importorskip("optuna")
    search = Search(40, tiny_backbone(), ["a", "b"], seed=0)
    seen: list[tuple[Way, float]] = [(_way("lora"), 0.6), (_way("ia3"), 0.5), (_way("bitfit"), 0.4)]
    for _ in range(40):
        found = search.ask(sorted(seen, key=lambda each: -each[1]), None)
        assert found is not None
        assert found.method == "lora", "only the best third is varied"
        if found.key not in {each.key for each, _ in seen}:
            seen.append((found, 1.0 - abs(found.options["rank"] - 30) / 30))
    best = max(seen, key=lambda each: each[1])[0]
    assert best.options["rank"] > 24
    again = Search(40, tiny_backbone(), ["a", "b"], seed=0)
    assert again.ask(seen[:3], None) == Search(40, tiny_backbone(), ["a", "b"], seed=0).ask(seen[:3], None)


def test_groups_that_are_alike_are_proposed() -> None:
    pytest.importorskip("optuna")
    search = Search(30, tiny_backbone(), ["a", "b", "c"], seed=0)
    proposed = [search.ask([(_way("full"), 0.5)], [["a", "c"], ["b"]]) for _ in range(30)]
    groups = {repr(each.training.get("groups")) for each in proposed if each is not None}
    assert groups == {"None", "[['a', 'c'], ['b']]", "[['a'], ['b'], ['c']]"}


def test_a_way_is_called_after_what_sets_it_apart() -> None:
    assert _way("lora").name == "lora"
    assert (
        Way("lora", {"tune": "lora", "edit_lr": 0.00123}, {"rank": 4}).name == "lora rank=4 edit_lr=0.00123"
    )
    assert Way("full", {"tune": "full", "groups": [["a", "b"], ["c"]]}).name == "full groups=a+b|c"
    assert apart(["a", "b", "c"]).name == "full groups=apart"


def test_processes_share_cores_and_take_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert places(2, 8, []) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert places(4, 2, ["0", "1", "2"]) == [
        {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": name} for name in ("0", "1", "2", "0")
    ]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices_here() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a")
    assert devices_here() == ["3", "GPU-8a"]


def test_merges_are_varied_by_their_own_options() -> None:
    pytest.importorskip("optuna")
    ties = space_of("ties", 3, 2)
    assert "edit_lr" not in ties
    assert "lr" not in ties
    assert ties["density"][0].high == pytest.approx(0.8)
    search = Search(5, tiny_backbone(), ["a", "b"], seed=0)
    found = search.ask([(_way("ties"), 0.5)], None)
    assert found is not None
    assert found.merges
    assert {"density", "scale"} <= set(found.options)


def _way(method: str) -> Way:
    found = way_of(method)
    assert found is not None
    return found
