"""Several tasks at a time: in order, the shared made once, errors raised, numbers as one after the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from taskheads.model import features as module
from taskheads.tasks.task import TaskData
from taskheads.training.every_task import for_every_task
from taskheads.training.frozen import fit_head
from tests.heads.planted import make_task, normal
from tests.training.planted import Table, split_data

WIDTH, ROWS = 4, 300
TEXTS = [f"text {i}" for i in range(ROWS)]
OTHERS = [f"other {i}" for i in range(ROWS)]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    return Table(monkeypatch, WIDTH, lambda site, text: normal(WIDTH, seed=sum(map(ord, site + text))))


def classify(name: str, texts: list[str]) -> TaskData:
    return split_data(make_task("classify", "ab", name=name), texts, targets=list("ab" * (ROWS // 2)))


def tasks_of(**texts: list[str]) -> dict[str, TaskData]:
    return {name: classify(name, each) for name, each in texts.items()}


def test_answers_come_by_name_in_the_order_of_the_tasks(table: Table) -> None:
    tasks = tasks_of(c=TEXTS, a=OTHERS, b=TEXTS)
    told: list[int] = []
    features = table.features(*tasks.values())
    found = for_every_task(tasks, lambda _: features, str.upper, told.append)
    assert list(found.items()) == [("c", "C"), ("a", "A"), ("b", "B")]
    assert told == [1, 2, 3]


def test_one_of_the_same_rows_goes_first_with_all_threads_and_the_others_side_by_side(table: Table) -> None:
    tasks = tasks_of(a=TEXTS, b=TEXTS, c=TEXTS)
    features = table.features(*tasks.values())
    together = threading.Barrier(2, timeout=30)
    begun: list[str] = []

    def work(name: str) -> int:
        begun.append(name)
        if name != "a":
            together.wait()
        return torch.get_num_threads()

    found = for_every_task(tasks, lambda _: features, work)
    assert begun[0] == "a"
    assert found == {"a": 2, "b": 1, "c": 1}
    assert torch.get_num_threads() == 2


def test_tasks_on_rows_of_their_own_need_not_wait_for_each_other(table: Table) -> None:
    tasks = tasks_of(a=TEXTS, b=OTHERS)
    features = table.features(*tasks.values())
    together = threading.Barrier(2, timeout=30)
    assert set(for_every_task(tasks, lambda _: features, lambda _: together.wait()).values()) == {0, 1}


def test_where_not_all_was_kept_the_others_have_all_threads_too(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tasks_of(a=TEXTS, b=TEXTS, c=TEXTS)
    features = table.features(*tasks.values())
    monkeypatch.setattr(module, "_KEPT_BYTES", 1)

    def work(name: str) -> int:
        fit_head(table.backbone, tasks[name], features)
        return torch.get_num_threads()

    assert for_every_task(tasks, lambda _: features, work) == {"a": 2, "b": 2, "c": 2}


def test_an_error_of_one_task_is_raised(table: Table) -> None:
    tasks = tasks_of(a=TEXTS, b=TEXTS, c=TEXTS)
    features = table.features(*tasks.values())

    def work(name: str) -> None:
        if name == "c":
            raise ValueError(name)

    with pytest.raises(ValueError, match="c"):
        for_every_task(tasks, lambda _: features, work)
    assert torch.get_num_threads() == 2


def test_heads_are_those_of_one_task_after_the_other(table: Table) -> None:
    tasks = tasks_of(a=TEXTS, b=TEXTS, c=OTHERS, d=TEXTS)
    features = table.features(*tasks.values())
    at_once = for_every_task(
        tasks, lambda _: features, lambda name: fit_head(table.backbone, tasks[name], features)
    )
    again = table.features(*tasks.values())
    for name, data in tasks.items():
        alone = fit_head(table.backbone, data, again)
        assert alone.tried == at_once[name].tried
        for one, other in zip(alone.head.parameters(), at_once[name].head.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
