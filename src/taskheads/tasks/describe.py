"""What was understood of a suite, as facts to print: the answer of `taskheads check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from taskheads.tasks.suite import Suite
from taskheads.tasks.task import SPLITS, Examples, TaskData

_PERCENTILES = (50, 95, 100)
_MOST = 5


def describe(suite: Suite) -> list[dict[str, Any]]:
    """Facts about each task, as plain values that JSON can hold.

    Each task has `name`, `kind`, `inputs`, `label`, `metric`, `options`; `rows` by split; `labels`, the size
    of the label space, and `most_frequent`, its five most frequent labels in train as [label, count] (of
    words for `tag`; a label without a row in train counts 0); `range`, the least and greatest number, where
    the labels are numbers; `characters` and `words`, the 50th, 95th and 100th percentile of the lengths in
    each input column over all splits; and `reasons`, sentences that say why it was understood so.
    """
    return [_facts(data) for data in suite.tasks.values()]


def percentile(sorted_values: Sequence[int], percent: int) -> int:
    """The least value that `percent` percent of the values do not exceed (nearest rank)."""
    return sorted_values[max(0, -(-percent * len(sorted_values) // 100) - 1)]


def _facts(data: TaskData) -> dict[str, Any]:
    task, train = data.task, data.splits["train"]
    counts = _label_counts(data, train)
    numbers = [target for target in train.targets if isinstance(target, (int, float))]
    parts = [data.splits[split] for split in SPLITS]
    columns = {
        name: [value for part in parts for value in part.inputs[i]] for i, name in enumerate(task.inputs)
    }
    return {
        "name": task.name,
        "kind": task.kind,
        "inputs": list(task.inputs),
        "label": task.label,
        "metric": task.metric,
        "options": dict(task.options),
        "rows": {split: len(data.splits[split]) for split in SPLITS},
        "labels": len(task.labels),
        "most_frequent": [[label, count] for label, count in counts.most_common(_MOST)],
        "range": [min(numbers), max(numbers)] if numbers else None,
        "characters": {name: _lengths([len(_joined(v)) for v in values]) for name, values in columns.items()},
        "words": {name: _lengths([len(_split(v)) for v in values]) for name, values in columns.items()},
        "reasons": list(data.reasons),
    }


def _label_counts(data: TaskData, train: Examples) -> Counter[Any]:
    counts: Counter[Any] = Counter(dict.fromkeys(data.task.labels, 0))
    for target in train.targets if data.task.labels else ():
        counts.update(target if isinstance(target, list) else [target])
    return counts


def _lengths(lengths: list[int]) -> dict[str, int]:
    ordered = sorted(lengths)
    return {f"p{percent}": percentile(ordered, percent) for percent in _PERCENTILES}


def _joined(value: str | list[str]) -> str:
    return " ".join(value) if isinstance(value, list) else value


def _split(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else value.split()
