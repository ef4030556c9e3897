"""Rungs under a clock that the test turns: what is begun, for how long, and when all of it is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from taskheads.compare.bench import Result, Run, rows_at
from taskheads.compare.expecting import expected
from taskheads.compare.ledger import Ledger
from taskheads.compare.race import Race
from taskheads.compare.searching import Search
from taskheads.compare.ways import way_of
from tests.compare.small import NAMES, suite
from tests.small_models import tiny_backbone

WAYS = ("ia3", "lora", "bitfit", "houlsby", "vera", "reft")
PLANNED, FEWEST = 50, 6
# Seconds for the heads, for all rows.
BESIDE, FROZEN = 6.0, 1.0


class Timed:
    """Takes as long as it is told: `step` seconds for a step of a method, up to `PLANNED` of them as the
    minutes allow, and then settles its heads."""

    slots = 1

    def __init__(self, step: Mapping[str, float]) -> None:
        self.step, self.now, self.begun = step, 0.0, list[tuple[Run, float]]()

    def put(self, run: Run) -> None:
        self.begun.append((run, self.now))

    def take(self) -> tuple[Run, Result]:
        run, method = self.begun[-1][0], self.begun[-1][0].way.method
        told = {"way": run.way.to_json(), "seed": run.seed, "part": run.part}
        dev = dict.fromkeys(NAMES, 0.5 - 0.01 * ["frozen", *WAYS, "full"].index(method))
        if method == "frozen":
            self.now += FROZEN * run.part
            return run, Result(**told, dev=dev)
        step = self.step[method]
        steps = max(FEWEST, min(PLANNED, int(60 * run.minutes / step)))
        if steps * step > run.seconds:
            self.now += run.seconds + step
            return run, Result(**told, problem="its time was over")
        beside = BESIDE * run.part
        self.now += steps * step + beside
        taken = {"seconds": steps * step + beside, "shortest": FEWEST * step, "beside": beside}
        return run, Result(**told, dev=dev, steps=steps, **taken)


@pytest.fixture
def raced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Race, Timed]]:
    def run(budget: float, *more: str, **step: float) -> tuple[Race, Timed]:
        crew = Timed(dict.fromkeys((*WAYS, *more), 0.5) | step)
        monkeypatch.setattr("taskheads.compare.race.time", SimpleNamespace(monotonic=lambda: crew.now))
        ledger = Ledger(tmp_path / str(budget), {}, resume=False)
        race = Race(suite(rows=120), crew, ledger, budget, 1, None)  # type: ignore[arg-type]
        ways = [way for name in ("frozen", *WAYS, *more) if (way := way_of(name)) is not None]
        race.run(ways, Search(0, tiny_backbone(), NAMES, 0))
        return race, crew

    return run


@pytest.mark.parametrize("budget", [5.0, 20.0, 45.0, 100.0, 400.0])
def test_all_is_over_within_the_budget(raced: Callable[..., tuple[Race, Timed]], budget: float) -> None:
    race, crew = raced(budget)
    assert crew.now <= budget + 2 * FROZEN
    assert race.finalists(), "the frozen heads are always there"


def test_with_time_enough_all_are_trained_to_their_end(raced: Callable[..., tuple[Race, Timed]]) -> None:
    race, _ = raced(1000.0)
    assert {results[0].part for results in race.standings.values()} == {1.0}
    assert {results[0].steps for results in race.standings.values()} == {0, PLANNED}


@pytest.mark.parametrize(("budget", "trained"), [(50.0, 1), (90.0, 2), (190.0, 4)])
def test_in_the_end_the_best_is_trained_as_far_as_it_goes_and_others_where_there_is_time(
    raced: Callable[..., tuple[Race, Timed]], budget: float, trained: int
) -> None:
    race, _ = raced(budget)
    frozen, *best = race.finalists()
    assert race.ways[frozen].method == "frozen"
    assert [race.ways[key].method for key in best] == list(WAYS[:trained])
    assert [race.standings[key][0].steps for key in best] == [PLANNED] * trained


def test_full_fine_tuning_is_trained_to_its_end_however_it_did_on_few_rows(
    raced: Callable[..., tuple[Race, Timed]],
) -> None:
    race, _ = raced(70.0, "full")
    methods = {race.ways[key].method: race.standings[key][0].steps for key in race.finalists()}
    assert set(methods) == {"frozen", WAYS[0], "full"}
    assert methods["full"] == PLANNED > methods[WAYS[0]] > FEWEST


def test_no_rung_has_next_to_the_same_rows_as_the_one_before(
    raced: Callable[..., tuple[Race, Timed]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskheads.compare.race.parts_of", lambda _: [1 / 9, 1 / 3, 1.0])
    monkeypatch.setattr("taskheads.compare.race.rows_at", lambda _, part: max(200, round(1000 * part)))
    _, crew = raced(400.0)
    assert {run.part for run, _ in crew.begun} == {1 / 9, 1.0}


@pytest.mark.parametrize(("budget", "parts"), [(60.0, {1 / 9, 1.0}), (1000.0, {1 / 9, 1 / 3, 1.0})])
def test_a_rung_without_time_to_train_on_is_left_out(
    raced: Callable[..., tuple[Race, Timed]], monkeypatch: pytest.MonkeyPatch, budget: float, parts: set
) -> None:
    monkeypatch.setattr("taskheads.compare.race.parts_of", lambda _: [1 / 9, 1 / 3, 1.0])
    monkeypatch.setattr("taskheads.compare.race.rows_at", lambda _, part: round(9000 * part))
    race, crew = raced(budget)
    assert {run.part for run, _ in crew.begun} == parts
    assert race.ways[race.finalists()[1]].method == WAYS[0], "the best of the first rung"


def test_one_that_takes_longer_than_others_is_stopped_and_not_begun_again(
    raced: Callable[..., tuple[Race, Timed]],
) -> None:
    race, crew = raced(60.0, lora=30.0)
    assert crew.now <= 60.0 + 30.0, "the step in which the time is over"
    assert [run.way.method for run, _ in crew.begun].count("lora") <= 1
    assert "lora" in race.problems()


def test_a_slow_one_at_first_leaves_time_for_others(raced: Callable[..., tuple[Race, Timed]]) -> None:
    race, crew = raced(120.0, ia3=20.0)
    assert crew.begun[1][0].way.method == "ia3"
    assert "ia3" in race.problems()
    assert len(race.finalists()) > 1
    assert crew.now <= 120.0 + 20.0


def test_what_was_measured_says_what_cannot_be_begun(raced: Callable[..., tuple[Race, Timed]]) -> None:
    race, crew = raced(45.0)
    assert race.problems(), "not all fit"
    for run, at in crew.begun:
        if run.way.method != "frozen" and run is not crew.begun[1][0]:
            assert at + FEWEST * 0.5 + BESIDE * run.part <= 45.0


def test_heads_take_longer_on_more_rows_and_steps_do_not() -> None:
    seen = [
        Result({}, 0, 0.25, shortest=2.0, beside=1.0),
        Result({}, 0, 0.5, shortest=4.0, beside=1.0),
        Result({}, 0, 0.5, shortest=100.0, problem="diverged"),
    ]
    assert expected(seen, 1.0, lambda part: round(100 * part)) == (3.0, 3.0)
    assert expected(seen[2:], 1.0, lambda _: 1) is None
    assert rows_at(suite(rows=120), 1.0) > rows_at(suite(rows=120), 1 / 3)
