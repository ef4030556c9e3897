"""What a task is, and the data of one task, split by split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["classify", "multilabel", "regress", "ordinal", "tag", "pair", "embed"]
Split = Literal["train", "dev", "test"]
KINDS: tuple[str, ...] = get_args(Kind)
SPLITS: tuple[str, ...] = get_args(Split)


@dataclass(frozen=True)
class Task:
    """A question asked of every row: what it reads, what it answers, how it is scored.

    Parameters
    ----------
    name: unique in its suite.
    kind: one of `KINDS`. A `pair` whose `labels` is empty predicts a number (similarity), else a label.
    inputs: the input columns: one, or two for `pair` and `embed` (query, document).
    label: the label column; None for `embed`, whose rows are themselves the matches.
    metric: name in `taskheads.tasks.metrics`, by which the task is judged.
    labels: the label space, in the order of the head's outputs. Strings, or ints for `ordinal`
        (ascending). Empty for `regress`, similarity and `embed`.
    options: what else the user said, by kind: `crf` (tag), `encoding` "two" | "joint" (pair).
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    label: str | None
    metric: str
    labels: tuple[str, ...] | tuple[int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"inputs": list(self.inputs), "labels": list(self.labels)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Task:
        return cls(**{**data, "inputs": tuple(data["inputs"]), "labels": tuple(data["labels"])})


@dataclass
class Examples:
    """The rows of one split that carry this task's inputs and (unless it is `embed`) its label.

    `inputs[c][i]` is the value of the c-th input column of row i: a text, or a list of words for `tag`.
    `targets[i]` is the label as the user wrote it (str, list of str, float, int, list of tags); None for
    `embed`. `sources[i]` is (path, row), for error messages.
    """

    inputs: tuple[list, ...]
    targets: list
    sources: list[tuple[str, int]]

    def __len__(self) -> int:
        return len(self.sources)

    def at(self, rows: Sequence[int]) -> Examples:
        """These rows, in this order."""
        return Examples(
            tuple([column[row] for row in rows] for column in self.inputs),
            [self.targets[row] for row in rows],
            [self.sources[row] for row in rows],
        )

    def thinned(self, count: int) -> Examples:
        """At most `count` of the rows, evenly spaced; all of them where there are no more."""
        if len(self) <= count:
            return self
        import numpy as np

        return self.at(np.unique(np.linspace(0, len(self) - 1, count).astype(int)).tolist())


@dataclass
class TaskData:
    """A task with its examples (every split of `SPLITS`, an absent one empty) and why it is so understood.

    edit: what it may change in the backbone, if that was said: a method's name and its options.
    """

    task: Task
    splits: dict[str, Examples]
    reasons: list[str] = field(default_factory=list)
    edit: tuple[str, dict[str, Any]] | None = None
