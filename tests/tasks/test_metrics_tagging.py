"""Entities as conlleval counts them: by hand, and against spans extracted one token at a time."""

import numpy as np
import pytest

from taskheads.tasks.metrics import METRICS
from taskheads.tasks.metrics.tagging import entity_counts


def spans(tags):
    """The entities (first, after last, type) of one sentence, reading from left to right."""
    found, first, current = [], None, None
    for at, tag in enumerate([*tags, "O"]):
        prefix, _, kind = tag.partition("-")
        goes_on = first is not None and prefix == "I" and kind == current
        if first is not None and not goes_on:
            found.append((first, at, current))
            first = None
        if prefix in ("B", "I") and not goes_on:
            first, current = at, kind
    return set(found)


def by_hand(truth, predicted):
    pairs = [(spans(t), spans(p)) for t, p in zip(truth, predicted, strict=True)]
    return [[len(t & p) for t, p in pairs], [len(p) for _, p in pairs], [len(t) for t, _ in pairs]]


@pytest.mark.parametrize("types", [["A"], ["A", "B"], ["A", "B-c", "", "O"]])
@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_spans_read_token_by_token(types, seed):
    rng = np.random.default_rng(seed)
    tags = ["O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]
    truth, predicted = [], []
    for _ in range(400):
        length = rng.integers(0, 9)
        truth.append([str(tag) for tag in rng.choice(tags, size=length)])
        wrong = rng.random(length) < 0.3
        noise = rng.choice(tags, size=length)
        predicted.append([str(n) if w else t for t, n, w in zip(truth[-1], noise, wrong, strict=True)])
    assert entity_counts(truth, predicted).tolist() == by_hand(truth, predicted)


CASES = [
    # truth, predicted, (right, predicted, true)
    ("B-X I-X O", "B-X I-X O", (1, 1, 1)),
    ("B-X I-X O", "I-X I-X O", (1, 1, 1)),  # an I without its B begins an entity
    ("B-X I-X O", "B-X I-Y O", (0, 2, 1)),  # a change of type ends one and begins another
    ("B-X I-X I-X", "B-X I-X O", (0, 1, 1)),  # the end counts
    ("O B-X I-X", "B-X I-X I-X", (0, 1, 1)),  # the start counts
    ("B-X B-X", "B-X I-X", (0, 1, 2)),  # a B always begins one
    ("I-X B-X", "B-X B-X", (2, 2, 2)),  # IOB1 and IOB2 are the same entities
    ("B-X O B-Y", "B-X O B-Z", (1, 2, 2)),
    ("B-a-b I-a-b", "B-a-b I-a-c", (0, 2, 1)),  # a type may have hyphens
    ("B I O B", "B I O I", (2, 2, 2)),  # no type is a type
    ("O O", "O O", (0, 0, 0)),
    ("E-X E-X", "E-X E-X", (2, 2, 2)),  # conlleval's reading of E: each begins anew
]


@pytest.mark.parametrize(("truth", "predicted", "counts"), CASES)
def test_hand_cases(truth, predicted, counts):
    assert tuple(entity_counts([truth.split()], [predicted.split()])[:, 0]) == counts


def test_an_entity_ends_with_its_sentence():
    truth = [["B-X", "I-X"], ["I-X", "O"], []]
    assert entity_counts(truth, truth).tolist() == [[1, 1, 0]] * 3


def test_precision_recall_and_f1_of_a_known_table():
    truth = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O", "O"]]
    predicted = [["B-PER", "I-PER", "O", "B-ORG"], ["O", "O", "B-LOC"]]
    assert METRICS["entity_precision"].compute(truth, predicted) == pytest.approx(1 / 3)
    assert METRICS["entity_recall"].compute(truth, predicted) == pytest.approx(1 / 3)
    assert METRICS["entity_f1"].compute(truth, predicted) == pytest.approx(1 / 3)
    assert METRICS["accuracy"].compute(truth, predicted) == pytest.approx(4 / 7)


def test_a_docstart_sentence_adds_a_token_and_no_entity():
    truth, predicted = [["B-X", "O"]], [["B-X", "I-X"]]
    with_start = METRICS["accuracy"].compute([["O"], *truth], [["O"], *predicted])
    assert with_start == pytest.approx(2 / 3)
    assert METRICS["accuracy"].compute(truth, predicted) == pytest.approx(1 / 2)
    for name in ("entity_f1", "entity_precision", "entity_recall"):
        alone = METRICS[name].compute(truth, predicted)
        assert METRICS[name].compute([["O"], *truth], [["O"], *predicted]) == alone


def test_nothing_to_find_and_nothing_found_is_0():
    for name in ("entity_f1", "entity_precision", "entity_recall"):
        assert METRICS[name].compute([["O", "O"]], [["O", "O"]]) == 0.0
        assert METRICS[name].compute([["B-X", "O"]], [["O", "O"]]) == 0.0
        assert METRICS[name].compute([["O", "O"]], [["B-X", "O"]]) == 0.0


def test_flat_tags_are_labels_of_tokens():
    truth = [["NOUN", "VERB"], ["NOUN"], [], ["ADJ", "NOUN", "VERB"]]
    predicted = [["NOUN", "NOUN"], ["NOUN"], [], ["ADJ", "VERB", "VERB"]]
    assert METRICS["accuracy"].compute(truth, predicted) == pytest.approx(4 / 6)
    # NOUN 2 of 3 and 3, VERB 1 of 2 and 2, ADJ 1 of 1
    assert METRICS["macro_f1"].compute(truth, predicted) == pytest.approx((4 / 6 + 2 / 4 + 1) / 3)


@pytest.mark.parametrize("name", ["entity_f1", "accuracy", "macro_f1"])
def test_what_cannot_be_scored_is_a_sentence(name):
    metric = METRICS[name]
    with pytest.raises(ValueError, match="sentence 1 has 2 tags but 1 predicted"):
        metric.compute([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match="no sentence has a tag"):
        metric.compute([[], []], [[], []])
