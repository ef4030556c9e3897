"""One label as the user wrote it, made what its kind needs, or a sentence about why it cannot be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from taskheads.tasks.guess.columns import is_missing, number_slips
from taskheads.tasks.rows import Rows

_TYPES = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list"}


def convert_targets(rows: Rows, label: str, kind: str, indices: Sequence[int]) -> list[Any]:
    """The labels of these rows as `Examples.targets` has them.

    `classify`, `pair` with labels: strings (`0` is "0", `True` is "true"). `multilabel`: lists of strings
    without repetition. `regress`, `similarity`: floats. `ordinal`: ints. `tag`: lists of strings; a text
    is split at blanks.

    Raises
    ------
    DataError: a label that the kind cannot use; the message names the first such row.
    """
    values = rows.column(label)
    convert = _CONVERT[kind]
    targets = []
    for i in indices:
        try:
            targets.append(convert(values[i]))
        except ValueError as error:
            raise rows.error(str(error), i, label) from None
    return targets


def check_types(parts: Iterable[Rows], label: str, kind: str) -> None:
    """See that all labels of a task, whichever split they are in, are of one type.

    Raises
    ------
    DataError: a label of another type than most, or a text that is no number where most are; the message
        names the first one in its file.
    """
    every = [(part, i) for part in parts for i, value in enumerate(part.column(label)) if has_label(value)]
    # Rows of made splits are out of the order in which their file has them.
    every.sort(key=lambda where: where[0].sources[where[1]][1])
    values = [part.columns[label][i] for part, i in every]
    names = [type_name(value) for value in values]
    counts = Counter(names)
    if len(counts) > 1:
        most, count = counts.most_common(1)[0]
        odd = next(i for i, name in enumerate(names) if name != most)
        problem = f"mixed types: this is {names[odd]}, but {count} of {len(names)} rows hold {most}"
    elif kind in ("regress", "similarity", "ordinal") and (slips := number_slips(values)):
        odd, problem = slips[0], f"a number is needed, this is {names[slips[0]]}"
    else:
        return
    part, index = every[odd]
    raise part.error(problem, index, label)


def has_label(value: Any) -> bool:
    """Tell whether a row has a label: anything but None and a blank text."""
    return not is_missing(value)


def is_similarity(values: Sequence[Any]) -> bool:
    """Tell whether the labels of pairs are numbers to predict: any number but whole 0 and 1."""
    present = [value for value in values if has_label(value)]
    if number_slips(present):
        return True
    numbers = [value for value in present if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return 2 * len(numbers) > len(present) and not all(
        isinstance(value, int) and value in (0, 1) for value in numbers
    )


def type_name(value: Any) -> str:
    """The type of a value in the words of the user."""
    return _TYPES.get(type(value), f"a {type(value).__name__}")


def _class(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    raise ValueError(f"a class is a text or a whole number, this is {type_name(value)}")


def _classes(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(
            f'a list of labels is needed, this is {type_name(value)}; in a CSV file write ["a", "b"]'
        )
    if any(item is None for item in value):
        raise ValueError("a label in the list is empty")
    return list(dict.fromkeys(_class(item) for item in value))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"a number is needed, this is {type_name(value)}")
    if not math.isfinite(value):
        raise ValueError("the target is not a finite number")
    return float(value)


def _level(value: Any) -> int:
    number = _number(value)
    if not number.is_integer():
        raise ValueError("a whole number is needed for an ordinal task")
    return int(number)


def _tags(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list) or any(isinstance(tag, (list, dict)) or tag is None for tag in value):
        raise ValueError("a list with a tag for each word is needed")
    return [_class(tag) for tag in value]


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "classify": _class,
    "pair": _class,
    "multilabel": _classes,
    "regress": _number,
    "similarity": _number,
    "ordinal": _level,
    "tag": _tags,
}
