"""The picture of `benchmarks/edit_methods.py`."""

from __future__ import annotations

from itertools import combinations
from typing import Any
from xml.etree import ElementTree

import pytest


@pytest.fixture
def edit_methods(script: Any) -> Any:
    return script("edit_methods")


def test_a_method_has_a_point_in_the_panel_of_each_task_that_it_can_have(edit_methods: Any) -> None:
    def figures(parameters: int, **score: float) -> dict[str, Any]:
        return {"score": score, "frozen": dict.fromkeys(edit_methods.NAMES, 0.5), "parameters": parameters}

    found = {
        "lora": figures(1000, clinc150=0.6, trec_fine=0.7, wnut17=0.4),
        "ptec": figures(0, clinc150=0.6, trec_fine=0.5),
    }
    drawn = ElementTree.fromstring(edit_methods.picture(found))
    space = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f"{space}circle")) == 5
    words = [each.text for each in drawn.findall(f"{space}text")]
    assert (words.count("1"), words.count("2")) == (3 + 1, 2 + 1)
    assert {"lora", "ptec", *edit_methods.NAMES} <= set(words)


def test_numbers_of_points_at_one_place_are_apart(edit_methods: Any) -> None:
    taken = [(100.0, 100.0)] * 4
    for _ in range(4):
        taken.append(edit_methods.free(100.0, 100.0, taken))
    for one, other in combinations(taken[3:], 2):
        assert abs(one[0] - other[0]) > 13 or abs(one[1] - other[1]) > 10
