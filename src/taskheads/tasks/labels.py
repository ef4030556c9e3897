"""Label spaces: from what the user wrote to numbers and back, for the heads and the metrics."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from taskheads.errors import DataError
from taskheads.tasks.suggest import did_you_mean
from taskheads.tasks.task import Examples, Task

if TYPE_CHECKING:
    import numpy as np

_BIO = re.compile(r"O|[BI]-.+")
_BEGINS = re.compile(r"B-.+|I-.+")
# BIOES and BILOU mark the end and the single word of an entity; B and I say the same with less.
_SINGLE, _LAST = ("S-", "U-"), ("E-", "L-")


def collect_labels(kind: str, targets: Sequence[Any]) -> tuple[str, ...] | tuple[int, ...]:
    """The label space of these targets, sorted: strings, or ints for `ordinal`; empty where there is none.

    `kind` is a task's kind, or "similarity" for a pair with numbers.
    """
    if kind in ("regress", "similarity", "embed"):
        return ()
    if kind in ("multilabel", "tag"):
        return tuple(sorted({label for labels in targets for label in labels}))
    return tuple(sorted(set(targets)))


def encode(task: Task, examples: Examples) -> np.ndarray | list[np.ndarray]:
    """The targets of a split as numbers.

    Returns, for n rows and C labels: `classify`, `ordinal` and `pair` with labels, int64 [n], the position
    in `task.labels`; `multilabel`, bool [n, C]; `regress` and similarity, float64 [n]; `tag`, a list of n
    int64 arrays, one number a word.

    Raises
    ------
    DataError: a label is not in `task.labels`; the message names the first row with one.
    ValueError: the task is `embed`, which has no labels.
    """
    import numpy as np

    if task.kind == "embed":
        raise ValueError("an embed task has no labels to encode")
    if not task.labels:
        return np.asarray(examples.targets, dtype=np.float64)
    ids = {label: i for i, label in enumerate(task.labels)}
    try:
        if task.kind == "tag":
            return [np.array([ids[tag] for tag in tags], dtype=np.int64) for tags in examples.targets]
        if task.kind == "multilabel":
            encoded = np.zeros((len(examples), len(ids)), dtype=bool)
            for row, labels in zip(encoded, examples.targets, strict=True):
                row[[ids[label] for label in labels]] = True
            return encoded
        return np.array([ids[label] for label in examples.targets], dtype=np.int64)
    except KeyError:
        raise unknown_label_error(task, examples, *unknown_labels(task, examples)[0]) from None


def decode(task: Task, encoded: Any) -> list[Any]:
    """Turn `encode`'s numbers (or a model's, of the same form) back into what the user writes."""
    if not task.labels:
        return [float(value) for value in encoded]
    if task.kind == "tag":
        return [[task.labels[i] for i in row] for row in encoded]
    if task.kind == "multilabel":
        return [[task.labels[i] for i in row.nonzero()[0]] for row in encoded]
    return [task.labels[i] for i in encoded]


def unknown_labels(task: Task, examples: Examples) -> list[tuple[int, Any]]:
    """The rows with a label that `task.labels` does not have: (index, the first such label)."""
    known = set(task.labels)
    if isinstance(next(iter(examples.targets), None), list):
        return [
            (i, next(label for label in labels if label not in known))
            for i, labels in enumerate(examples.targets)
            if not known.issuperset(labels)
        ]
    return [(i, label) for i, label in enumerate(examples.targets) if label not in known]


def unknown_label_error(task: Task, examples: Examples, index: int, label: Any) -> DataError:
    """The error about a label that `task.labels` does not have."""
    path, row = examples.sources[index]
    near = did_you_mean(label, map(str, task.labels))
    return DataError(
        f"this label never occurs in train{near}; with `unseen: keep` such rows count as misses, with "
        "`unseen: drop` they are left out",
        file=path,
        row=row,
        column=task.label,
        value=label,
    )


def is_bio(tags: Iterable[str]) -> bool:
    """Tell whether tags mark entities: all are `O`, `B-…` or `I-…`, and at least one begins an entity.

    Other tags are flat, a class for each word (parts of speech, for example).
    """
    tags = list(tags)
    return any(_BEGINS.fullmatch(tag) for tag in tags) and all(_BIO.fullmatch(tag) for tag in tags)


def malformed_tags(tags: Iterable[str]) -> list[str]:
    """Tags that do not fit among tags that are meant as BIO (there is an `O` and some `B-…`); else none."""
    tags = sorted(set(tags))
    if "O" not in tags or not any(tag.startswith("B-") and len(tag) > 2 for tag in tags):
        return []
    return [tag for tag in tags if not _BIO.fullmatch(tag)]


def has_ends(tags: Iterable[str]) -> bool:
    """Tell whether tags are BIOES or BILOU: each is `O` or prefixed so, and some mark ends or singles."""
    tags = set(tags)
    prefixed = all(tag == "O" or (tag[1:2] == "-" and tag[0] in "BIESLU" and len(tag) > 2) for tag in tags)
    begins = any(tag.startswith(("B-", *_SINGLE)) for tag in tags)
    return prefixed and begins and "O" in tags and any(tag.startswith((*_SINGLE, *_LAST)) for tag in tags)


def without_ends(tags: Sequence[str]) -> list[str]:
    """BIOES or BILOU tags as the BIO tags of the same entities."""
    turned = []
    for tag in tags:
        prefix = tag[:2]
        turned.append("B" + tag[1:] if prefix in _SINGLE else "I" + tag[1:] if prefix in _LAST else tag)
    return turned
