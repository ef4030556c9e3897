"""What a task's answers on labelled rows tell: what it takes for what, how far its confidence can be trusted,
and where it is most wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from taskheads.heads import EmbedHead, Head, TagHead
from taskheads.heads.embed import retrieval
from taskheads.heads.head import Decisions
from taskheads.methods import method
from taskheads.model.evaluation import truth_of
from taskheads.tasks.task import Examples

# As many bins as Guo et al. 2017 take, and as much of a text as a report shows.
_BINS = 15
_LONGEST = 600


def findings(
    head: Head,
    scores: torch.Tensor,
    made: Decisions,
    examples: Examples,
    *,
    factor: float | None = None,
    errors: int = 20,
) -> dict[str, Any]:
    """What the answers of one task on labelled rows tell, as JSON-able data.

    Parameters
    ----------
    head: what answered.
    scores: its raw scores of these rows, as `forward` gives them.
    made: its decisions from these scores.
    examples: the rows, at least one.
    factor: what `calibrate` multiplied the scores by, so that dividing by it gives those before temperature
        scaling; None where they never were.
    errors: how many of the worst errors to tell.

    Returns
    -------
    {"confusion": see `confusion`, "reliability": see `reliability`, "errors": see `worst_errors`}
    """
    return {
        "confusion": confusion(head, made, examples),
        "reliability": reliability(head, scores, made, examples, factor),
        "errors": worst_errors(head, made, examples, errors),
    }


def confusion(head: Head, made: Decisions, examples: Examples) -> dict[str, Any] | None:
    """How often each label was answered for each label, of words where the task is to tag.

    Returns {"labels": the task's labels as texts, "cells": [[truth, answered, count], ...]}, for counts above
    0, with the labels' positions; None where a row has no one label.
    """
    labels = head.task.labels
    if not labels or head.kind == "multilabel":
        return None
    truth = _numbers(head, truth_of(head, examples)).tolist()
    counts = Counter(zip(truth, _numbers(head, made.predicted).tolist(), strict=True))
    cells = [[true, answer, count] for (true, answer), count in sorted(counts.items())]
    return {"labels": [str(label) for label in labels], "cells": cells}


def reliability(
    head: Head, scores: torch.Tensor, made: Decisions, examples: Examples, factor: float | None = None
) -> dict[str, Any] | None:
    """Confidence beside how often it was right (Guo et al. 2017, arXiv:1706.04599, section 2), before and
    after temperature scaling.

    What is counted: rows, by the probability of the label answered; words of a `tag` task, by that of the
    likeliest tag of the word alone; for `multilabel` each label of each row, by its probability beside
    whether the row has it.

    Returns
    -------
    {"of": "rows" | "words" | "labels", "before": as "after", or None without a `factor`,
    "after": {"equal_width": {"ece", "bins"}, "equal_mass": {"ece", "bins"}}}, see `calibration_bins`. None
    for answers without probabilities: numbers, search, and the best path of a CRF.
    """
    if not head.task.labels or (isinstance(head, TagHead) and head.crf):
        return None
    truth = truth_of(head, examples)
    if head.kind == "multilabel":
        return {"of": "labels", "before": None, "after": _binned(made.scores, truth)}
    if head.kind == "ordinal":
        confidence = np.take_along_axis(made.scores, made.predicted[:, None], axis=1)[:, 0]
        return {"of": "rows", "before": None, "after": _binned(confidence, made.predicted == truth)}

    def binned(scores: torch.Tensor) -> dict[str, Any]:
        likeliest = scores.softmax(-1).max(-1)
        right = likeliest.indices.numpy() == _numbers(head, truth)
        return _binned(likeliest.values.numpy(), right)

    before = None if factor is None else binned(scores.double() / factor)
    of = "words" if isinstance(head, TagHead) else "rows"
    return {"of": of, "before": before, "after": binned(scores.double())}


@method(
    "expected_calibration_error",
    family="trust",
    paper="arXiv:1706.04599",
    applies_to=("classify", "multilabel", "ordinal", "tag", "pair"),
)
def calibration_bins(confidence: np.ndarray, right: np.ndarray, edges: np.ndarray) -> dict[str, Any]:
    """Measure how far confidence is from accuracy: in bins of confidence the mean of both, and the expected
    calibration error, the mean of |accuracy - confidence| over bins, weighted by their share of the items
    (Guo et al. 2017, equation 3).

    Parameters
    ----------
    confidence: of each item, from 0 to 1, [n].
    right: whether the item was right, [n].
    edges: ascending, from 0 to 1; bin m holds edges[m] < confidence ≤ edges[m + 1], the first one also 0.

    Returns
    -------
    {"ece": from 0 to 1, "bins": [{"low", "high", "confidence", "accuracy", "count"}, ...]}, no bin empty.
    """
    count = len(edges) - 1
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, count - 1)
    sizes = np.bincount(place, minlength=count)
    confident = np.bincount(place, weights=confidence, minlength=count)
    correct = np.bincount(place, weights=right, minlength=count)
    bins = [
        {
            "low": float(edges[at]),
            "high": float(edges[at + 1]),
            "confidence": float(confident[at] / sizes[at]),
            "accuracy": float(correct[at] / sizes[at]),
            "count": int(sizes[at]),
        }
        for at in np.flatnonzero(sizes)
    ]
    return {"ece": float(np.abs(correct - confident).sum() / max(len(confidence), 1)), "bins": bins}


def worst_errors(head: Head, made: Decisions, examples: Examples, count: int = 20) -> dict[str, Any]:
    """The rows that are most wrong: by the confidence in a wrong label, the distance from a number, the
    number of wrong labels or tags, or how far down a search the first right document stands.

    Returns
    -------
    {"measure": "confidence" | "distance" | "wrong labels" | "wrong tags" | "rank", "wrong": how many rows are
    wrong at all, "rows": [{"inputs": {column: text}, "truth", "answer", "score", "file", "row"}, ...]}, the
    worst first. Truth and answer are a text, a number, or a list of labels; of tags those words which are
    wrong, as "word/tag". For search, a query is an input, the truth its document that stands first. Long
    texts are cut.
    """
    if isinstance(head, EmbedHead):
        return _worst_searches(head, made, examples, count)
    if isinstance(head, TagHead):
        measure, score = "wrong tags", _wrong_tags(made, examples)
    elif head.kind == "multilabel":
        measure, score = "wrong labels", (made.predicted != truth_of(head, examples)).sum(1)
    elif not head.task.labels:
        measure, score = "distance", np.abs(made.predicted - truth_of(head, examples))
    else:
        wrong = made.predicted != truth_of(head, examples)
        sure = np.take_along_axis(made.scores, made.predicted[:, None], axis=1)[:, 0]
        measure, score = "confidence", np.where(wrong, sure, 0.0)
    rows = []
    for at in _highest(score, count):
        truth, answer = _truth_and_answer(head, made, examples, at)
        inputs = {
            name: _text(column[at]) for name, column in zip(head.task.inputs, examples.inputs, strict=True)
        }
        rows.append(_row(examples, at, inputs, truth, answer, score[at]))
    return {"measure": measure, "wrong": int(np.count_nonzero(score)), "rows": rows}


def _worst_searches(head: Head, made: Decisions, examples: Examples, count: int) -> dict[str, Any]:
    """Queries by the rank of their first relevant document; one that stands first is not wrong."""
    queries, documents = (_first_places(column) for column in examples.inputs)
    relevant, ranks = retrieval(made, *examples.inputs)
    # Ranks stand query by query, each query's in the order of its relevant documents.
    ends = np.cumsum([len(each) for each in relevant])
    of_query = np.split(ranks.rank, ends[:-1])
    below = np.array([each.min() - 1 for each in of_query])
    texts, sides = list(documents), made.scores[list(documents.values())]
    query_texts, rows = list(queries), []
    for at in _highest(below, count):
        row = queries[query_texts[at]]
        nearest = texts[int(np.argmax(sides @ made.predicted[row]))]
        right = texts[relevant[at][int(np.argmin(of_query[at]))]]
        inputs = {head.task.inputs[0]: _text(query_texts[at])}
        rows.append(_row(examples, row, inputs, _text(right), _text(nearest), below[at] + 1))
    return {"measure": "rank", "wrong": int(np.count_nonzero(below)), "rows": rows}


def _numbers(head: Head, answers: Any) -> np.ndarray:
    """Positions of labels, int [n]: as they are, or those of tags, the words of all rows end to end."""
    if not isinstance(head, TagHead):
        return answers
    number = {label: i for i, label in enumerate(head.task.labels)}
    return np.asarray([number[tag] for tags in answers for tag in tags], np.int64)


def _binned(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """`calibration_bins` of equal width, and with as equal numbers of items as ties allow."""
    confidence, right = np.ravel(confidence).astype(np.float64), np.ravel(right)
    inner = np.unique(np.quantile(confidence, np.arange(1, _BINS) / _BINS))
    mass = np.concatenate([[0.0], inner[(inner > 0) & (inner < 1)], [1.0]])
    return {
        "equal_width": calibration_bins(confidence, right, np.linspace(0, 1, _BINS + 1)),
        "equal_mass": calibration_bins(confidence, right, mass),
    }


def _wrong_tags(made: Decisions, examples: Examples) -> np.ndarray:
    """How many tags of each row are wrong."""
    return np.asarray(
        [
            sum(true != tag for true, tag in zip(truth, tags, strict=True))
            for truth, tags in zip(examples.targets, made.predicted, strict=True)
        ]
    )


def _truth_and_answer(head: Head, made: Decisions, examples: Examples, at: int) -> tuple[Any, Any]:
    truth, answer = examples.targets[at], made.predicted[at]
    if isinstance(head, TagHead):
        triples = zip(examples.inputs[0][at], truth, answer, strict=True)
        wrong = [(word, true, tag) for word, true, tag in triples if true != tag]
        return [f"{word}/{true}" for word, true, _ in wrong], [f"{word}/{tag}" for word, _, tag in wrong]
    if head.kind == "multilabel":
        return list(truth), [head.task.labels[i] for i in np.flatnonzero(answer)]
    return truth, head.task.labels[answer] if head.task.labels else float(answer)


def _row(
    examples: Examples, at: int, inputs: dict[str, str], truth: Any, answer: Any, score: float
) -> dict[str, Any]:
    file, row = examples.sources[at]
    return {
        "inputs": inputs,
        "truth": truth,
        "answer": answer,
        "score": float(score),
        "file": str(file),
        "row": int(row),
    }


def _highest(score: np.ndarray, count: int) -> list[int]:
    """Where the highest scores above 0 stand, highest first; equal ones in the order of the rows."""
    order = np.argsort(-score, kind="stable")[:count]
    return [int(at) for at in order if score[at] > 0]


def _first_places(texts: Sequence[str]) -> dict[str, int]:
    """The distinct texts, in the order of their first rows, and those rows."""
    places: dict[str, int] = {}
    for at, text in enumerate(texts):
        places.setdefault(text, at)
    return places


def _text(value: str | list[str]) -> str:
    whole = value if isinstance(value, str) else " ".join(value)
    return whole if len(whole) <= _LONGEST else whole[: _LONGEST - 1] + "…"
