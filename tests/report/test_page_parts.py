"""The parts of the page: orders, averages, axes and words, each by what must be true of it."""

from __future__ import annotations

import numpy as np
import pytest

from taskheads.report.page.confusion import commonest, matrix, order_of
from taskheads.report.page.curves import charts, points_of, thinned
from taskheads.report.page.likeness import groups_of, likeness
from taskheads.report.page.numbers import count_of, decimal, duration, short, signed
from taskheads.report.page.outcomes import outcomes
from taskheads.report.page.reliability import reliability
from taskheads.report.page.summary import summary
from taskheads.report.page.svg import Axis, element
from tests.report.page_example import confusion, example


def test_labels_that_are_confused_stand_together() -> None:
    """Families of three, drawn apart: in the order each is one run; never-confused labels come last."""
    draw = np.random.default_rng(3)
    size = 33
    family = np.where(np.arange(size) < 30, draw.permutation(size) // 3, -1)
    family[:30] = draw.permutation(30) // 3
    counts = np.diag(np.full(size, 40))
    for i in range(30):
        for j in range(30):
            if i != j and family[i] == family[j]:
                counts[i, j] = draw.integers(1, 6)
    order = order_of(counts)
    assert sorted(order) == list(range(size))
    assert set(order[30:]) == {30, 31, 32}
    for each in range(10):
        places = np.flatnonzero(family[order] == each)
        assert np.ptp(places) == 2


def test_the_order_brings_confusions_to_the_diagonal() -> None:
    found = confusion(np.random.default_rng(0), [str(i) for i in range(60)])
    counts = np.zeros((60, 60))
    for truth, answer, count in found["cells"]:
        counts[truth, answer] = count
    order = np.argsort(order_of(counts))
    i, j = counts.nonzero()
    assert np.abs(order[i] - order[j]).mean() < 0.25 * np.abs(i - j).mean()


def test_levels_stay_in_their_order() -> None:
    found = {"labels": ["1", "2", "3"], "cells": [[0, 2, 5], [2, 0, 5], [1, 1, 9]]}
    ordered, free = matrix(found, ordered=True), matrix(found)
    assert ordered is not None
    assert free is not None
    assert (ordered.labels, ordered.cells) == (["1", "2", "3"], [[0, 2, 5], [1, 1, 9], [2, 0, 5]])
    assert (free.labels, free.clean) == (["1", "3", "2"], 1)
    assert free.totals == [5, 5, 9]


def test_more_labels_than_can_be_shown() -> None:
    size = 500
    cells = [[i, i, 2] for i in range(size)] + [[i, i + 1, 3] for i in range(0, 100, 2)]
    found = matrix({"labels": [f"label {i}" for i in range(size)], "cells": cells})
    assert found is not None
    assert (len(found.labels), found.left_out) == (300, 200)
    confused = {f"label {i}" for i in range(100)}
    assert confused <= set(found.labels)
    assert found.clean == 200


def test_the_commonest_confusions_come_first() -> None:
    found = commonest({"labels": ["a", "b"], "cells": [[0, 0, 90], [0, 1, 10], [1, 0, 10], [1, 1, 30]]})
    assert [(each.truth, each.answer, each.count, each.share) for each in found] == [
        ("b", "a", 10, 0.25),
        ("a", "b", 10, 0.1),
    ]
    assert commonest(None) == []


@pytest.mark.parametrize("count", [1, 2, 119, 120, 121, 1200])
def test_thinning_keeps_the_mean_and_the_span(count: int) -> None:
    points = [(float(i), float(i * i % 7)) for i in range(count)]
    thin = thinned(points)
    assert len(thin) <= 120
    size = -(-count // 120)
    weights = [min(size, count - start) for start in range(0, count, size)]
    mean = np.average([value for _, value in thin], weights=weights)
    assert mean == pytest.approx(np.mean([value for _, value in points]))
    assert thin[0][0] <= size
    assert thin[-1][0] >= count - 1 - size


def test_curves_with_gaps_and_without_points() -> None:
    assert points_of([[1, None], [2, float("nan")], [3, 0.5]]) == [(3, 0.5)]
    assert points_of(None) == []
    found = charts({"a": [[1, 0.25]], "b": [], "c": [[1, 2.0], [2, 2.0]]}, {"a": 0.5})
    assert [(each.title, each.last) for each in found] == [("a", "0.25"), ("c", "2")]
    assert "frozen head: 0.500" in found[0].drawing
    assert all("NaN" not in each.drawing for each in found)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.03, 0.07), (1e-6, 4e-5), (0, 12345), (0.911, 0.913)])
def test_ticks_are_round_even_and_inside(low: float, high: float) -> None:
    axis = Axis(low, high, 10, 110)
    ticks = axis.ticks(5)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    leading = float(f"{steps[0]:.0e}"[0])
    assert leading in (1, 2, 5)
    assert (axis(low), axis(high)) == (10, 110)


def test_elements_escape_texts_and_attributes() -> None:
    made = element("text", "<b>&", element("title", '"x"'), class_="a", text_anchor='"><', x=1.50)
    assert made == (
        '<text class="a" text-anchor="&#34;&gt;&lt;" x="1.5">&lt;b&gt;&amp;<title>&#34;x&#34;</title></text>'
    )


def test_numbers_in_words() -> None:
    assert [decimal(each) for each in (0.9123, -0.5, None, float("nan"), 1234.5)] == [
        *("0.912", "−0.500", "–", "–", "1,234.500")
    ]
    assert [signed(each) for each in (0.01, -0.01, 0.0, -0.0001, None)] == [
        *("+0.010", "−0.010", "0.000", "0.000", "–")
    ]
    assert [short(each) for each in (0.00005, 12345.6, 0.5, 3, -2.5)] == [
        "5e−05",
        "12,346",
        "0.5",
        "3",
        "−2.5",
    ]
    assert [duration(each) for each in (0.04, 9.96, 59.6, 61, 3661, None)] == [
        *("0.0 s", "10 s", "1 min 0 s", "1 min 1 s", "1 h 1 min", "–")
    ]
    assert [count_of(each, "task") for each in (0, 1, 1200)] == ["no tasks", "1 task", "1,200 tasks"]


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        ({"value": 0.1, "low": 0.05, "high": 0.2}, "better"),
        ({"value": -0.1, "low": -0.2, "high": -0.05}, "worse"),
        ({"value": 0.1, "low": -0.05, "high": 0.2}, "unsure"),
        ({"value": 0.0, "low": 0.0, "high": 0.0}, "same"),
        (None, None),
    ],
)
def test_a_gain_is_one_beyond_its_interval(gain: dict[str, float] | None, verdict: str | None) -> None:
    (task,) = outcomes({"a": {"gain": gain}})
    assert task.verdict == verdict


def test_errors_do_not_share_an_axis_with_shares() -> None:
    found = {task.name: task.axis for task in outcomes(example()["tasks"])}
    assert found.pop("minutes_to_answer") == "mae"
    assert set(found.values()) == {"score"}
    (below_one,) = outcomes({"a": {"metric": "mae", "scores": {"frozen": {"value": 0.4}}}})
    assert below_one.axis == "mae"


def test_less_error_than_alone_is_better() -> None:
    def said(shared: float, alone: dict[str, float]) -> str:
        scores = {"shared": {"value": shared, "low": 1.9, "high": 2.1}, "alone": alone}
        tasks = outcomes({"a": {"metric": "mae", "kept": "shared", "scores": scores}})
        return summary({}, tasks)[-1]

    assert said(2.0, {"value": 2.5}).endswith("as good or better on 1 of 1 task.")
    assert said(2.0, {"value": 1.95}).endswith("as good or better on 0 of 1 task.")
    assert said(2.0, {"value": 1.5}).endswith("0 of 1 task; it is worse beyond its interval on a.")


def test_similar_tasks_stand_together_in_their_groups() -> None:
    values = [[1.0, -0.5, 0.7], [-0.5, 1.0, 0.1], [0.7, 0.1, 1.0]]
    similarity = {"tasks": ["a", "b", "c"], "gradient": values, "groups": [["a", "c"], ["b"]]}
    drawn = likeness(similarity, "gradient")
    assert drawn is not None
    cells = ["a, a: 1.000", "a, c: 0.700", "a, b: −0.500", "c, a: 0.700", "c, c: 1.000", "c, b: 0.100"]
    places = [drawn.index(f"<title>{cell}</title>") for cell in cells]
    assert places == sorted(places)
    assert drawn.count('class="unlike"') == 2
    assert drawn.count('class="frame"') == 2
    assert likeness(similarity, "representation") is None
    values[0][1] = -0.001
    drawn = likeness(similarity | {"representation": values}, "representation")
    assert drawn is not None
    assert ">0.00<" in drawn
    assert "−0.00<" not in drawn
    assert groups_of(similarity | {"groups": [[0, 2], [1]]}) == [["a", "c"], ["b"]]


def test_a_diagram_has_a_dot_for_each_bin() -> None:
    trust = example(["question_type"])["tasks"]["question_type"]["findings"]["reliability"]
    drawn = reliability(trust)
    assert drawn is not None
    bins = len(trust["after"]["equal_width"]["bins"])
    assert [drawn.drawing.count(f'class="dot {when}"') for when in ("before", "after")] == [bins, bins]
    assert drawn.drawing.count('class="bar"') == bins
    alone = reliability({**trust, "before": None})
    assert alone is not None
    assert [when for when, *_ in alone.errors] == ["as answered"]
