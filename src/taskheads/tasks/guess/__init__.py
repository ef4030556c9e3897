"""Which tasks a file holds, told from its columns: the values decide, known names help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taskheads.errors import DataError
from taskheads.tasks.guess.columns import Column, column_facts, is_identifier, is_split
from taskheads.tasks.guess.inputs import find_inputs, find_layers, find_words, is_search
from taskheads.tasks.guess.names import GENERIC_LABELS, JUDGEMENTS, LABELS, ORIGINS, UNORDERED, plain
from taskheads.tasks.rows import Rows
from taskheads.tasks.suggest import listed

MAX_LEVELS = 20
_LONGEST_LABEL = 80
# As many values as "irrelevant, partly relevant, relevant" and the like have.
_JUDGED = 5


@dataclass(frozen=True)
class Guess:
    """A task that a file could be for, and in one sentence why."""

    kind: str
    inputs: tuple[str, ...]
    label: str | None
    reason: str


def guess_tasks(
    rows: Rows, *, inputs: Sequence[str] = (), label: str | None = None, kind: str | None = None
) -> list[Guess]:
    """Tell which tasks the columns are for; whatever the caller states is taken as given.

    - tokens and lists of the same lengths whose items repeat → `tag`, a task for each such list;
    - two texts and a label → `pair` (numbers: similarity; else labels; 0 and 1 are labels);
      two texts and no label → `embed`, also where they are called a query and a document, a question and
      an answer …, and no other column judges the match;
    - one text (or tokens, read as a text) and strings that repeat → `classify`; lists of strings →
      `multilabel`; floats → `regress`; whole numbers of at most 20 levels with few gaps → `ordinal`
      (only two levels, or a name such as `class`: `classify`); other whole numbers → `regress`.

    Columns that number the rows or name their split are set aside; so are those that describe where a row
    comes from (`genre`, `source`), and those of one value only, as long as something else can be the label.
    If a column is called `label` (or `target` …), then only such columns are labels.

    Raises
    ------
    DataError: a stated column is not there, or no task can be seen (the message lists the columns).
    """
    for name in (*inputs, *([label] if label else [])):
        rows.column(name)
    facts = column_facts(rows)
    stated = {*inputs, label}
    usable = {
        name: column
        for name, column in facts.items()
        if name in stated or not (column.shape in ("empty", "other") or _set_aside(column, rows))
    }
    found = _Finder(rows, usable, tuple(inputs), label, kind).tasks()
    if not found:
        raise _nothing_found(rows, facts, kind)
    return found


def _set_aside(column: Column, rows: Rows) -> bool:
    values = rows.columns[column.name]
    return is_identifier(column, values) or is_split(column, values)


@dataclass
class _Finder:
    rows: Rows
    columns: dict[str, Column]
    inputs: tuple[str, ...]
    label: str | None
    kind: str | None

    def tasks(self) -> list[Guess]:
        others = {name: column for name, column in self.columns.items() if name != self.label}
        words = self.inputs[0] if len(self.inputs) == 1 else find_words(self.columns)
        layers = find_layers(self.rows, self.columns, words) if words else []
        found: list[Guess] = []
        if words and self.kind in (None, "tag"):
            if self.kind == "tag" and self.label:
                layers = [self.label]
            layers = [name for name in layers if self.label in (None, name)]
            found += [self._layer(words, name) for name in layers]
        if self.kind == "tag":
            return found
        inputs, why = self.inputs, "as stated"
        if not inputs:
            inputs, why = find_inputs({n: c for n, c in others.items() if n not in layers}, words)
        if not inputs:
            return found
        taken = {*inputs, *layers, words}
        free = [name for name in others if name not in taken]
        aside: list[str] = []
        if self.label is None and self.kind in (None, "embed") and is_search(inputs):
            aside = [name for name in free if not self._judges(self.columns[name])]
        labels = [self.label] if self.label else self._labels([n for n in free if n not in aside], inputs)
        for name in labels:
            if name not in layers and self.kind != "embed" and (guess := self._labelled(name, inputs, why)):
                found.append(guess)
        if not found and len(inputs) == 2 and self.label is None and self.kind in (None, "embed"):
            able = [name for name in aside if self._can_be_label(self.columns[name])]
            told = f", as {listed(able, 3)} cannot say how well they match" if able else ""
            reason = f"two texts, {listed(inputs)} ({why}), and no label{told}: rows are matches to be found"
            found.append(Guess("embed", inputs, None, reason))
        return found

    def _judges(self, column: Column) -> bool:
        """Whether a column can say how well two texts match: by its name, or by the few values it has."""
        known = plain(column.name) in JUDGEMENTS | GENERIC_LABELS
        return known or (plain(column.name) not in ORIGINS and 1 < column.distinct <= _JUDGED)

    def _layer(self, words: str, name: str) -> Guess:
        distinct = self.columns[name].distinct
        return Guess(
            "tag", (words,), name, f"{name!r} has a tag for each word of {words!r}, {distinct} different ones"
        )

    def _labels(self, names: list[str], inputs: tuple[str, ...]) -> list[str]:
        """The columns that can be labels, the best evidence there is; weaker evidence counts if alone."""
        able = [name for name in names if self._can_be_label(self.columns[name])]
        varied = [name for name in able if self.columns[name].distinct > 1]
        generic = [name for name in able if plain(name) in GENERIC_LABELS]
        if generic:
            return generic
        strong = [name for name in varied if plain(name) not in ORIGINS]
        if strong or len(inputs) == 2:
            return strong
        return varied or able

    def _can_be_label(self, column: Column) -> bool:
        known = plain(column.name) in LABELS | GENERIC_LABELS
        if column.shape == "text":
            return column.length <= _LONGEST_LABEL and (
                column.repeats or (known and column.distinct < column.filled)
            )
        if column.shape == "texts":
            return column.length <= _LONGEST_LABEL and (column.variety < 0.9 or known)
        return column.shape in ("int", "float", "bool")

    def _labelled(self, name: str, inputs: tuple[str, ...], why: str) -> Guess | None:
        kind, evidence = _kind_of(self.columns[name], len(inputs))
        if self.kind is not None and self.kind != kind:
            if self.label is None and not _compatible(self.columns[name], self.kind):
                return None
            kind, evidence = self.kind, "as stated"
        return Guess(kind, inputs, name, f"{evidence}; input {listed(inputs)} ({why})")


def _kind_of(column: Column, texts: int) -> tuple[str, str]:
    name, distinct = repr(column.name), column.distinct
    numeric = column.shape in ("int", "float")
    binary = column.shape == "int" and {column.low, column.high} <= {0.0, 1.0}
    if texts == 2:
        if numeric and not binary:
            return "pair", f"two texts and numbers in {name}, {column.low:g} to {column.high:g}: similarity"
        return "pair", f"two texts and {distinct} labels in {name}"
    if column.shape == "texts":
        return "multilabel", f"{name} holds lists of strings, {distinct} different ones"
    if column.shape == "float":
        return "regress", f"{name} holds numbers with fractions, {column.low:g} to {column.high:g}"
    if column.shape == "int":
        span = column.high - column.low + 1
        if distinct <= 2 or (plain(column.name) in UNORDERED and column.repeats):
            return "classify", f"{name} holds {distinct} numbers that stand for classes"
        if distinct <= MAX_LEVELS and span < 2 * distinct and column.repeats:
            levels = f"{distinct} levels, {column.low:g} to {column.high:g}"
            return "ordinal", f"{name} holds small whole numbers in order, {levels}"
        return "regress", f"{name} holds whole numbers, {column.low:g} to {column.high:g}"
    return "classify", f"{name} holds {distinct} values that repeat over {column.filled} rows"


def _compatible(column: Column, kind: str) -> bool:
    """Whether a column that looks like another kind may serve this one, when the caller states the kind."""
    if kind == "classify":
        return column.shape in ("text", "int", "bool")
    if kind == "regress":
        return column.shape in ("int", "float")
    return kind == "ordinal" and column.shape == "int"


def _nothing_found(rows: Rows, facts: dict[str, Column], kind: str | None) -> DataError:
    described = ", ".join(
        f"{column.name!r} ({column.shape}, {column.distinct} different in {column.filled} rows)"
        for column in facts.values()
    )
    wanted = f"no {kind} task" if kind else "no task"
    return DataError(
        f"{wanted} was found: looked for a text (mostly different strings) with a label (repeating strings, "
        f"numbers or lists of strings), tokens with tags, or two texts, among {described}; state `input` and "
        "`label` in a suite file if they are there",
        file=rows.path,
    )
