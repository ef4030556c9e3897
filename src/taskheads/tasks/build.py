"""One task from what was said and guessed of it: its examples, its labels, its metric, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from taskheads.errors import ConfigError, DataError
from taskheads.tasks.examples import labelled
from taskheads.tasks.guess import Guess
from taskheads.tasks.labels import collect_labels, has_ends, is_bio, unknown_labels, without_ends
from taskheads.tasks.rows import Rows
from taskheads.tasks.suggest import listed
from taskheads.tasks.targets import check_types, is_similarity
from taskheads.tasks.task import SPLITS, Examples, Task, TaskData
from taskheads.tasks.validate import validate

if TYPE_CHECKING:
    from taskheads.tasks.config import TaskConfig


def build_task(name: str, said: TaskConfig, guess: Guess, rows: Mapping[str, Rows]) -> TaskData:
    """Make a task of the rows of its splits; its reasons begin with the guess.

    Rows without a label are left out, and what `said.blank` and `said.unseen` drop; reasons count them. The
    label space is that of train, or of all splits if labels not seen in train are to be kept.

    Raises
    ------
    DataError: the data is not fit for the task (`examples.labelled`, `validate`).
    ConfigError: a metric or an option is not for this kind of task.
    """
    reasons = [guess.reason]
    kind = _judged_as(said, guess, rows)
    if guess.label is not None:
        check_types(rows.values(), guess.label, kind)
    splits = {split: Examples(tuple([] for _ in guess.inputs), [], []) for split in SPLITS}
    errors: list[DataError] = []
    for split in SPLITS:
        if split not in rows:
            continue
        try:
            splits[split], left = labelled(
                rows[split], kind, guess.inputs, guess.label, drop_blank=said.blank == "drop"
            )
        except DataError as error:
            errors.append(error)
            continue
        for count, what in ((left.no_label, "label"), (left.no_text, "text")):
            if count:
                reasons.append(f"{count} of {len(rows[split])} {split} rows have no {what}: left out")
    if errors:
        # Made splits mix the rows of a file: the first row that is wrong may be in any of them.
        first = str(errors[0].file)
        raise min((e for e in errors if str(e.file) == first), key=lambda error: error.row or 0)
    if kind == "tag" and has_ends(tag for part in splits.values() for tags in part.targets for tag in tags):
        for part in splits.values():
            part.targets = [without_ends(tags) for tags in part.targets]
        reasons.append("the tags mark ends and single words (BIOES or BILOU): read as BIO")
    counted = SPLITS if said.unseen == "keep" else ("train",)
    labels = collect_labels(kind, [target for split in counted for target in splits[split].targets])
    try:
        options = said.options(guess.kind)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    flat = kind == "tag" and not is_bio(map(str, labels))
    metric = _metric(said.metric, kind, flat)
    task = Task(name, guess.kind, guess.inputs, guess.label, metric, labels, options)  # type: ignore[arg-type]
    if labels and said.unseen == "keep":
        trained = set(collect_labels(kind, splits["train"].targets))
        if never := [label for label in labels if label not in trained]:
            reasons.append(f"labels that never occur in train, and count as misses: {listed(never, 5)}")
    if labels and said.unseen == "drop":
        for split in ("dev", "test"):
            unknown = {i for i, _ in unknown_labels(task, splits[split])}
            if unknown:
                splits[split] = _without(splits[split], unknown)
                reasons.append(f"{len(unknown)} {split} rows whose label never occurs in train: left out")
    validate(task, splits)
    return TaskData(task, splits, reasons)


def _judged_as(said: TaskConfig, guess: Guess, rows: Mapping[str, Rows]) -> str:
    """The kind as the metrics have it: a pair of numbers is "similarity", unless its metric is for labels."""
    if guess.kind != "pair":
        return guess.kind
    if said.metric is not None:
        from taskheads.tasks.metrics import METRICS

        kinds = METRICS[said.metric].kinds if said.metric in METRICS else frozenset()
        if len(kinds & {"pair", "similarity"}) == 1:
            return "pair" if "pair" in kinds else "similarity"
    values = [value for part in rows.values() for value in part.columns.get(str(guess.label), [])]
    return "similarity" if is_similarity(values) else "pair"


def _metric(said: str | None, kind: str, flat: bool) -> str:
    from taskheads.tasks.metrics import default_metric, metric_named

    return default_metric(kind, flat) if said is None else metric_named(said, kind).name


def _without(examples: Examples, indices: set[int]) -> Examples:
    keep = [i for i in range(len(examples)) if i not in indices]
    return Examples(
        tuple([column[i] for i in keep] for column in examples.inputs),
        [examples.targets[i] for i in keep],
        [examples.sources[i] for i in keep],
    )
