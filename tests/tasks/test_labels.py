"""Label spaces there and back."""

from __future__ import annotations

import time

import numpy as np
import pytest

from taskheads.errors import DataError
from taskheads.tasks.labels import (
    collect_labels,
    decode,
    encode,
    has_ends,
    is_bio,
    malformed_tags,
    without_ends,
)
from taskheads.tasks.task import Examples, Task


def task(kind: str, labels: tuple) -> Task:
    return Task("t", kind, ("text",), "label", "accuracy", labels)  # type: ignore[arg-type]


def examples(targets: list) -> Examples:
    return Examples((["x"] * len(targets),), targets, [("a.csv", i + 2) for i in range(len(targets))])


CASES = [
    ("classify", ["b", "a", "b"], ("a", "b"), np.array([1, 0, 1])),
    ("pair", ["1", "0"], ("0", "1"), np.array([1, 0])),
    ("ordinal", [10, 9, -1], (-1, 9, 10), np.array([2, 1, 0])),
    (
        "multilabel",
        [["b", "a"], [], ["c"]],
        ("a", "b", "c"),
        np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1]], bool),
    ),
    ("regress", [0.5, 2.0], (), np.array([0.5, 2.0])),
]


@pytest.mark.parametrize(("kind", "targets", "labels", "expected"), CASES)
def test_encode(kind, targets, labels, expected):
    assert collect_labels(kind, targets) == labels
    encoded = encode(task(kind, labels), examples(targets))
    assert encoded.dtype == expected.dtype
    np.testing.assert_array_equal(encoded, expected)
    back = decode(task(kind, labels), encoded)
    assert back == ([sorted(labels) for labels in targets] if kind == "multilabel" else targets)


def test_tags():
    targets = [["O", "B-x", "I-x"], ["O"]]
    labels = collect_labels("tag", targets)
    assert labels == ("B-x", "I-x", "O")
    encoded = encode(task("tag", labels), examples(targets))
    assert [row.tolist() for row in encoded] == [[2, 0, 1], [2]]
    assert encoded[0].dtype == np.int64
    assert decode(task("tag", labels), encoded) == targets


@pytest.mark.parametrize("kind", ["regress", "similarity", "embed"])
def test_numbers_have_no_label_space(kind):
    assert collect_labels(kind, [1.0, 2.0]) == ()


def test_an_embed_task_has_nothing_to_encode():
    with pytest.raises(ValueError, match="no labels"):
        encode(Task("t", "embed", ("a", "b"), None, "ndcg@10"), examples([None]))


@pytest.mark.parametrize(
    ("kind", "labels", "targets", "value"),
    [
        ("classify", ("play music", "b"), ["b", "play_music"], "play_music"),
        ("ordinal", (1, 2), [1, 3], 3),
        ("multilabel", ("a", "b"), [["a"], ["b", "c"]], "c"),
        ("tag", ("O", "B-x"), [["O"], ["O", "B-y"]], "B-y"),
    ],
)
def test_an_unknown_label_is_named_with_its_row(kind, labels, targets, value):
    with pytest.raises(DataError, match="this label never occurs in train") as caught:
        encode(task(kind, labels), examples(targets))
    assert (caught.value.file, caught.value.row, caught.value.column) == ("a.csv", 3, "label")
    assert caught.value.value == value
    assert ("did you mean 'play music'" in str(caught.value)) == (kind == "classify")


def test_fifteen_thousand_rows_take_milliseconds():
    names = tuple(f"label {i:03d}" for i in range(150))
    one = examples([names[i % 150] for i in range(15_000)])
    many = examples([[names[i % 150], names[(i + 7) % 150]] for i in range(15_000)])
    start = time.perf_counter()
    encode(task("classify", names), one)
    encode(task("multilabel", names), many)
    assert time.perf_counter() - start < 1  # measured: 0.03 s; a loop over rows x labels takes longer


@pytest.mark.parametrize(
    ("tags", "bio"),
    [
        (["O", "B-x", "I-x"], True),
        (["O", "I-x"], True),
        (["B-x"], True),
        (["O"], False),
        (["NOUN", "O"], False),
        (["O", "B-x", "B"], False),
        (["O", "B-x", "E-x"], False),
        ([], False),
    ],
)
def test_bio_or_flat(tags, bio):
    assert is_bio(tags) == bio


@pytest.mark.parametrize(
    ("tags", "bad"),
    [
        (["O", "B-x", "I-x"], []),
        (["O", "I-x", "B"], []),  # flat: nothing begins with B-
        (["O", "B-x", "B", "I-"], ["B", "I-"]),
        (["O", "B-x", "b-x", "X-y"], ["X-y", "b-x"]),
        (["B-x", "NOUN"], []),
        (["NOUN", "VERB"], []),
    ],
)
def test_malformed(tags, bad):
    assert malformed_tags(tags) == bad


@pytest.mark.parametrize(
    ("tags", "same"),
    [
        (["O", "S-x", "B-x", "I-x", "E-x", "O"], ["O", "B-x", "B-x", "I-x", "I-x", "O"]),
        (["U-x", "B-y", "L-y", "O"], ["B-x", "B-y", "I-y", "O"]),
    ],
)
def test_ends_are_said_by_begins_alone(tags, same):
    assert has_ends(tags)
    assert without_ends(tags) == same
    assert not has_ends(same)


def test_flat_tags_are_not_mistaken_for_ends():
    assert not has_ends(["S-NOUN", "E-VERB", "X"])
    assert not has_ends(["O", "B-x", "I-x", "S"])
