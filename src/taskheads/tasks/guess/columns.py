"""What a column holds: the evidence from which tasks are guessed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from taskheads.tasks.guess.names import SPLIT_NAMES
from taskheads.tasks.rows import Rows

Shape = Literal["text", "int", "float", "bool", "texts", "ints", "empty", "other"]

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# Codes have no blanks and at least a digit, or are addresses: 189cf18d-1b1f, doc_0041, https://…
_CODE = re.compile(r"[^\s]*[0-9][^\s]*|\w+://\S*")


@dataclass(frozen=True)
class Column:
    """Facts about a column; all but `rows` count only the rows that have a value.

    `shape` is what most values are (`texts` and `ints`: lists of them) and `share` how many are;
    `distinct` counts different values, or different items for lists; `length` is the mean number of
    characters (of an item, for lists), `words` of words (of items, for lists).
    """

    name: str
    shape: Shape
    share: float
    rows: int
    filled: int
    distinct: int
    items: int
    length: float
    words: float
    low: float = 0.0
    high: float = 0.0

    @property
    def repeats(self) -> bool:
        """Each value (or item) occurs twice on average: what a label does, and a text does not."""
        return 2 * self.distinct <= self.items

    @property
    def variety(self) -> float:
        return self.distinct / max(1, self.items)


def shape_of(value: Any) -> Shape:
    """The shape of one value; an empty list fits any list."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    if isinstance(value, list):
        if all(isinstance(item, str) for item in value):
            return "texts"
        if all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            return "ints"
    return "other"


def column_facts(rows: Rows) -> dict[str, Column]:
    """Look at every value of every column."""
    return {name: _facts(name, values) for name, values in rows.columns.items()}


def is_missing(value: Any) -> bool:
    """None, or a text of nothing but blanks. An empty list is a value: no label applies."""
    return value is None or (isinstance(value, str) and not value.strip())


def number_slips(values: Sequence[Any]) -> list[int]:
    """Where values, all of them texts, fail to be the numbers that most of them are (at least four in five).

    One slip in a column of numbers makes a CSV reader leave all of it text. Empty if it is not such a column.
    """
    if not all(isinstance(value, str) for value in values):
        return []
    slips = [i for i, value in enumerate(values) if not _NUMBER.fullmatch(value.strip())]
    return slips if 5 * len(slips) <= len(values) else []


def is_identifier(column: Column, values: Iterable[Any]) -> bool:
    """Tell whether a column only numbers or names its rows: by its name, or as codes that all differ."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", column.name).lower().strip("_").split("_")
    if words[-1] in ("id", "ids", "uid", "uuid", "guid", "idx", "index", "key", "hash"):
        return True
    if column.filled < 3 or column.distinct < column.filled:
        return False
    if column.shape == "int":
        return column.high - column.low + 1 == column.filled
    return column.shape == "text" and all(_CODE.fullmatch(v) for v in values if isinstance(v, str))


def is_split(column: Column, values: Iterable[Any]) -> bool:
    """Tell whether a column says which split a row belongs to: every value is the name of one."""
    if column.shape != "text" or column.share < 1 or column.distinct < 2:
        return False
    return all(str(value).strip().lower() in SPLIT_NAMES for value in values if value is not None)


def _facts(name: str, values: list[Any]) -> Column:
    present = [value for value in values if not is_missing(value)]
    if not present:
        return Column(name, "empty", 1.0, len(values), 0, 0, 0, 0.0, 0.0)
    shapes = Counter(shape_of(value) for value in present)
    if shapes["float"]:
        shapes["float"] += shapes.pop("int", 0)
    if shapes["ints"] and shapes["texts"]:
        # An empty list counted as texts may as well be one of numbers.
        empty = sum(value == [] for value in present)
        shapes["ints"], shapes["texts"] = shapes["ints"] + empty, shapes["texts"] - empty
    shape, count = shapes.most_common(1)[0]
    if shape == "text" and (slips := number_slips(present)):
        shape, count = "float", len(present) - len(slips)
    items: list[Any] = []
    if shape in ("texts", "ints"):
        lists = [value for value in present if isinstance(value, list)]
        items = [item for value in lists for item in value]
        words = len(items) / len(lists)
    else:
        items = present
        words = sum(len(str(item).split()) for item in items) / len(items)
    keys = [item if isinstance(item, str) else repr(item) for item in items]
    numeric = [float(item) for item in items if isinstance(item, (int, float)) and item == item]
    return Column(
        name=name,
        shape=shape,
        share=count / len(present),
        rows=len(values),
        filled=len(present),
        distinct=len(set(keys)),
        items=len(items),
        length=sum(map(len, keys)) / max(1, len(keys)),
        words=words,
        low=min(numeric, default=0.0),
        high=max(numeric, default=0.0),
    )
