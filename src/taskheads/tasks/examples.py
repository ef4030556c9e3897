"""From rows to the examples of a task: which rows count, and what a model is given of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from taskheads.tasks.guess.columns import is_missing
from taskheads.tasks.rows import Rows
from taskheads.tasks.table import Table
from taskheads.tasks.targets import convert_targets, has_label, type_name
from taskheads.tasks.task import Examples, Task

# Far beyond any document: a file that was read as one cell, rather than a text.
MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class LeftOut:
    """How many rows of a split are not examples of a task, by reason."""

    no_label: int = 0
    no_text: int = 0


def labelled(
    rows: Rows, kind: str, inputs: Sequence[str], label: str | None, *, drop_blank: bool = False
) -> tuple[Examples, LeftOut]:
    """The rows of a split that carry a task's label (for `embed`: both texts), checked one by one.

    `kind` is a task's kind, or "similarity" for a pair with numbers. A row without a label belongs to other
    tasks and is left out. A row with a label must have its text, unless `drop_blank` leaves it out as well.
    An input column that holds lists of words is joined with blanks, for every kind but `tag`.

    Raises
    ------
    DataError: a column is missing, a text is blank, not a text, not Unicode or longer than `MAX_CHARACTERS`,
        a label is not what the kind needs, or tags and words differ in number.
    """
    columns = [rows.column(name) for name in inputs]
    keep = list(range(len(rows)))
    if label is not None:
        labels = rows.column(label)
        keep = [i for i in keep if has_label(labels[i])]
    else:
        keep = [i for i in keep if not all(_is_blank(column[i]) for column in columns)]
    no_label = len(rows) - len(keep)
    if drop_blank:
        keep = [i for i in keep if not any(_is_blank(column[i]) for column in columns)]
    texts = _inputs(rows, kind, inputs, keep, hint="; `blank: drop` leaves such rows out")
    targets: list[Any] = [None] * len(keep)
    if label is not None:
        targets = convert_targets(rows, label, kind, keep)
    if kind == "tag":
        for i, words, tags in zip(keep, texts[0], targets, strict=True):
            if len(words) != len(tags):
                raise rows.error(f"{len(tags)} tags for {len(words)} words of {inputs[0]!r}", i, str(label))
    examples = Examples(texts, targets, [rows.sources[i] for i in keep])
    return examples, LeftOut(no_label, len(rows) - no_label - len(keep))


def unlabelled(task: Task, table: Table) -> Examples:
    """Every row of a table as inputs of a task, to be predicted: `targets` are None.

    For `tag`, a text instead of words is split at blanks.

    Raises
    ------
    DataError: as `labelled`; every row must have its text.
    """
    rows = Rows.of([table])
    for name in task.inputs:
        rows.column(name)
    texts = _inputs(rows, task.kind, task.inputs, range(len(rows)))
    return Examples(texts, [None] * len(rows), rows.sources)


def _inputs(
    rows: Rows, kind: str, inputs: Sequence[str], keep: Sequence[int], hint: str = ""
) -> tuple[list, ...]:
    """The input columns of the rows to keep; `hint` says what can be done about a blank one."""
    read = _words if kind == "tag" else _text
    result = []
    for name in inputs:
        column, values = rows.columns[name], []
        for i in keep:
            try:
                values.append(read(column[i]))
            except ValueError as error:
                advice = hint if _is_blank(column[i]) else ""
                raise rows.error(f"{error}{advice}", i, name) from None
        result.append(values)
    return tuple(result)


def _is_blank(value: Any) -> bool:
    return is_missing(value) or (isinstance(value, list) and all(is_missing(word) for word in value))


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = " ".join(_words(value))
    if is_missing(value):
        raise ValueError("a row without text")
    if not isinstance(value, str):
        raise ValueError(f"a text is needed, this is {type_name(value)}")
    return _checked(value)


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        value = value.split()
    if _is_blank(value):
        raise ValueError("a row without words")
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError("a list of words is needed")
    _checked(" ".join(value))
    return value


def _checked(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"a text of {len(text):,} characters; at most {MAX_CHARACTERS:,} can be read")
    # JSON can spell half a character ("\ud83d"), on which tokenizers fail long after.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"half a character at position {error.start}: not Unicode text") from None
    return text
