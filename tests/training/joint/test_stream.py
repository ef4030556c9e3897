"""Which rows a step takes: shares, even cost, every row once a pass, the same again after a restart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from taskheads.sharing.sampling import dynamic_shares, temperature_shares
from taskheads.training.joint.stream import Stream

RNG = np.random.default_rng(0)
TOKENS = {
    "large": RNG.integers(3, 40, 500),
    "middle": RNG.integers(5, 15, 80),
    "small": RNG.integers(20, 30, 9),
}


def stream(**shares: float) -> Stream:
    return Stream(TOKENS, 256, shares or {"large": 0.5, "middle": 0.3, "small": 0.2}, seed=3)


def test_rows_are_shared_out_as_said_and_steps_cost_the_same() -> None:
    """However long they are: a row of `small` has more than twice the tokens of one of `middle`."""
    taken, costs = dict.fromkeys(TOKENS, 0), []
    source = stream(large=0.5, middle=0.4, small=0.1)
    for _ in range(300):
        drawn = source.draw()
        costs.append(sum(int(TOKENS[name][rows].sum()) for name, rows in drawn.items()))
        for name, rows in drawn.items():
            taken[name] += len(rows)
    assert np.mean(costs) == pytest.approx(256, rel=0.01)
    for name, share in source.shares.items():
        assert taken[name] / sum(taken.values()) == pytest.approx(share, abs=0.01)
        assert taken[name] / 300 == pytest.approx(source.rows_a_step[name], rel=0.03)
    # No step is off by more than a row of each task.
    assert max(costs) < 256 + 40 + 15 + 30


def test_every_row_is_taken_once_before_any_is_taken_again() -> None:
    source = stream()
    seen: list[int] = []
    while len(seen) < 240:
        seen += source.draw().get("middle", np.empty(0, int)).tolist()
    assert sorted(seen[:80]) == list(range(80))
    assert sorted(seen[80:160]) == list(range(80))
    assert seen[:80] != seen[80:160]


def test_a_task_that_is_smaller_than_its_share_fills_no_step_with_copies() -> None:
    source = stream(large=0.1, middle=0.1, small=0.8)
    for _ in range(40):
        rows = source.draw().get("small", np.empty(0, int))
        assert len(set(rows.tolist())) == len(rows) <= 9


def test_a_stream_goes_on_where_its_state_was_taken() -> None:
    first = stream()
    for _ in range(57):
        first.draw()
    state = json.loads(json.dumps(first.state()))
    second = stream(large=1.0, middle=1.0, small=1.0)
    second.restore(state)
    for _ in range(30):
        a, b = first.draw(), second.draw()
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.method("temperature_sampling")
def test_temperature_goes_from_proportional_to_uniform() -> None:
    sizes = {"a": 900.0, "b": 100.0}
    assert temperature_shares(sizes, 1.0) == pytest.approx({"a": 0.9, "b": 0.1})
    assert temperature_shares(sizes, 2.0) == pytest.approx({"a": 0.75, "b": 0.25})
    assert temperature_shares(sizes, float("inf")) == pytest.approx({"a": 0.5, "b": 0.5})


@pytest.mark.method("dynamic_sampling")
def test_who_is_behind_gets_more_and_nobody_is_forgotten() -> None:
    shares = dynamic_shares({"a": 0.6, "b": 0.7, "c": 0.9}, {"a": 0.8, "b": 0.8, "c": 0.8})
    assert sum(shares.values()) == pytest.approx(1.0)
    # Gaps 0.2 and 0.1 of the same height alone; c is ahead.
    assert shares["a"] == pytest.approx(2 * shares["b"])
    assert 0 < shares["c"] < shares["b"]
    assert dynamic_shares({"a": 1.0, "b": 1.0}, {"a": 0.5, "b": 0.5}) == pytest.approx({"a": 0.5, "b": 0.5})
