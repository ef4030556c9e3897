"""Made splits: a partition, even over the labels, whole groups, and the same everywhere."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from taskheads.errors import ConfigError, DataError
from taskheads.tasks.config import SplitConfig
from taskheads.tasks.guess import Guess
from taskheads.tasks.rows import Rows
from taskheads.tasks.splits import split_rows

CLASSIFY = Guess("classify", ("text",), "label", "")


def rows(labels: list[Any], **columns: list) -> Rows:
    texts = [f"text {i}" for i in range(len(labels))]
    return Rows({"text": texts, "label": labels, **columns}, [("a.csv", i + 2) for i in range(len(labels))])


def made(table: Rows, *tasks: Guess, **said: Any) -> dict[str, Rows]:
    return split_rows({None: table}, SplitConfig(**said), tasks or (CLASSIFY,))[0]


def random_labels(seed: int, n: int) -> list[str]:
    generator = random.Random(seed)
    weights = [generator.random() ** 3 for _ in range(8)]
    return generator.choices("abcdefgh", weights, k=n)


@pytest.mark.parametrize("seed", range(10))
def test_every_row_is_in_exactly_one_split(seed):
    table = rows(random_labels(seed, 137 + 31 * seed))
    splits = made(table, seed=seed)
    texts = [text for part in splits.values() for text in part.columns["text"]]
    assert set(splits) == {"train", "dev", "test"}
    assert sorted(texts) == sorted(table.columns["text"])
    for part in splits.values():  # rows keep their labels and their place in the file
        for text, label, (_, row) in zip(
            part.columns["text"], part.columns["label"], part.sources, strict=True
        ):
            assert text == f"text {row - 2}"
            assert label == table.columns["label"][row - 2]


@pytest.mark.parametrize("seed", range(10))
def test_labels_are_spread_evenly(seed):
    labels = random_labels(seed, 800)
    splits = made(rows(labels), seed=seed)
    assert [len(splits[name]) for name in ("train", "dev", "test")] == pytest.approx([560, 120, 120], abs=3)
    for label, count in Counter(labels).items():
        if count > 1:
            held = (
                Counter(splits["dev"].columns["label"])[label],
                Counter(splits["test"].columns["label"])[label],
            )
            assert held == pytest.approx((0.15 * count, 0.15 * count), abs=1.5)


def test_no_group_is_in_two_splits():
    generator = random.Random(0)
    groups = [f"m{int(generator.paretovariate(1))}" for _ in range(1000)]
    splits = made(rows(random_labels(0, 1000), module=groups), group="module")
    where: dict[str, set[str]] = {}
    for name, part in splits.items():
        for group in part.columns["module"]:
            where.setdefault(group, set()).add(name)
    assert max(map(len, where.values())) == 1
    assert all(len(part) > 50 for part in splits.values())


def test_the_same_text_is_never_in_two_splits():
    table = rows(random_labels(1, 600))
    table.columns["text"] = [f"text {i % 200}" for i in range(600)]
    splits = made(table)
    sets = [set(part.columns["text"]) for part in splits.values()]
    assert sum(map(len, sets)) == 200
    assert [len(part) for part in splits.values()] == pytest.approx([420, 90, 90], abs=12)


def test_order_of_the_file_does_not_matter_and_the_seed_does():
    labels = random_labels(2, 500)
    table = rows(labels)
    order = random.Random(5).sample(range(500), 500)

    def texts(splits: dict[str, Rows]) -> dict[str, set[str]]:
        return {name: set(part.columns["text"]) for name, part in splits.items()}

    assert texts(made(table)) == texts(made(table.take(order)))
    assert texts(made(table)) != texts(made(table, seed=1))


def test_the_same_on_every_machine():
    """Python's own hash differs from process to process; these are the rows that have always been chosen."""
    program = (
        "from taskheads.tasks.splits import assign\n"
        "n = range(40)\n"
        "places = assign([str(i) for i in n], ['ab'[i % 2] for i in n], [frozenset()] * 40, {'dev': 0.2})\n"
        "print([i for i in n if places[i] == 'dev'])"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert results == {"[7, 9, 10, 17, 19, 26, 28, 30]\n"}


@pytest.mark.parametrize("labels", ["aaab", "aaaaabbbbc", "abababababzyx"])
def test_few_rows(labels):
    splits = made(rows(list(labels)))
    assert all(len(splits[name]) >= 1 for name in ("train", "dev", "test"))
    assert set(splits["train"].columns["label"]) == set(labels)


@pytest.mark.parametrize("labels", ["a", "ab", "aab", "abcd"])
def test_too_few_rows_are_an_error(labels):
    with pytest.raises(
        DataError,
        match=r"a\.csv, column 'label': \d rows of \d different texts cannot be",
    ):
        made(rows(list(labels)))


@pytest.mark.parametrize("kind", ["multilabel", "tag"])
def test_labels_that_occur_once_stay_in_train(kind):
    labels = [["O", "common"] if i % 3 else ["O"] for i in range(100)]
    for i in range(0, 100, 5):
        labels[i] = [*labels[i], f"rare{i}"]
    splits = made(rows(labels), Guess(kind, ("text",), "label", ""))
    held = {tag for name in ("dev", "test") for tags in splits[name].columns["label"] for tag in tags}
    assert held <= {"O", "common"}
    assert len(splits["dev"]) >= 8
    assert len(splits["test"]) >= 8


def test_tasks_on_the_same_rows_share_the_splits_and_each_has_rows_in_all():
    table = rows(random_labels(3, 400), score=[None if i % 100 else float(i) for i in range(400)])
    splits = made(table, CLASSIFY, Guess("regress", ("text",), "score", ""))
    assert all(any(value is not None for value in part.columns["score"]) for part in splits.values())


def test_numbers_are_held_out_though_each_occurs_once():
    splits = made(rows([i / 7 for i in range(100)]), Guess("regress", ("text",), "label", ""))
    assert [len(splits[name]) for name in ("train", "dev", "test")] == [70, 15, 15]


def test_shares_as_stated():
    splits = made(rows(["a", "b"] * 50), dev=0.1, test=0.3)
    assert [len(splits[name]) for name in ("train", "dev", "test")] == pytest.approx([60, 10, 30], abs=1)


@pytest.mark.parametrize(("there", "missing"), [("dev", "test"), ("test", "dev")])
def test_one_missing_split_is_carved_from_train(there, missing):
    table, other = rows(["a", "b"] * 50), rows(["a", "b"])
    splits, reasons = split_rows({"train": table, there: other}, SplitConfig(), [CLASSIFY])
    assert splits[there] is other
    assert (len(splits["train"]), len(splits[missing])) == (85, 15)
    assert reasons == [f"{missing} (15%) made from train, seed 0, rows of the same text together"]


def test_nothing_is_made_where_all_is_there():
    found = {name: rows(["a", "b"]) for name in ("train", "dev", "test")}
    assert split_rows(found, SplitConfig(), [CLASSIFY]) == (found, [])


@pytest.mark.parametrize("column", ["fold", None])
def test_a_column_of_splits(column):
    names = ["train", "Validation", "test", "TRAIN", "dev", "val"]
    table = rows(list("abcdef"), fold=names)
    splits, reasons = split_rows({None: table}, SplitConfig(column=column), [CLASSIFY])
    assert {name: part.columns["label"] for name, part in splits.items()} == {
        "train": ["a", "d"],
        "dev": ["b", "e", "f"],
        "test": ["c"],
    }
    assert "column 'fold' says each row's split" in reasons[0]


def test_a_value_that_is_no_split():
    with pytest.raises(DataError, match=r"a\.csv, row 3, column 'fold', value 'holdout': not a split"):
        made(rows(["a", "b"], fold=["train", "holdout"]), column="fold")
    with pytest.raises(DataError, match=r"a\.csv, row 3, column 'fold', value None: not a split"):
        made(rows(["a", "b"], fold=["train", None]), column="fold")
    with pytest.raises(DataError, match=r"column 'fld': no such column \(did you mean 'fold'"):
        made(rows(["a", "b"], fold=["train", "test"]), column="fld")


def test_a_row_without_a_group():
    with pytest.raises(DataError, match=r"row 4, column 'module', value None: a row without a group"):
        made(rows(["a", "b"] * 5, module=["x", "y", None] + ["z"] * 7), group="module")


def test_a_split_said_for_the_whole_suite_is_used_where_it_applies():
    found = {"train": rows(["a", "b"] * 50), "dev": rows(["a", "b"])}
    splits, _ = split_rows(found, SplitConfig(dev=0.2, test=0.1), [CLASSIFY], own=False)
    assert [len(splits[name]) for name in ("train", "dev", "test")] == [90, 2, 10]
    assert split_rows(found, SplitConfig(column="fold"), [CLASSIFY], own=False)[0]["dev"] is found["dev"]


def test_what_files_hold_is_not_made_again():
    found = {"train": rows(["a", "b"] * 9), "dev": rows(["a", "b"])}
    with pytest.raises(ConfigError, match="asks for dev rows to be made, but the data already has them"):
        split_rows(found, SplitConfig(dev=0.2), [CLASSIFY])
    with pytest.raises(ConfigError, match="names the column 'fold', but files already hold 'train', 'dev'"):
        split_rows(found, SplitConfig(column="fold"), [CLASSIFY])
