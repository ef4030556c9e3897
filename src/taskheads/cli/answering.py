"""`taskheads predict` and `evaluate`: the answers of a model, and how good they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from taskheads.cli.arguments import Folder
from taskheads.cli.incoming import Format, Incoming, open_rows
from taskheads.errors import DataError

if TYPE_CHECKING:
    from taskheads.model import Model


class Split(StrEnum):
    """The splits on which a model can be judged."""

    test = "test"
    dev = "dev"


def predict(
    folder: Folder,
    input: Annotated[str, typer.Option("--input", "-i", help="A file of rows, or - for a pipe.")] = "-",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file for the answers, instead of a pipe.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks: a,b,c.")] = None,
    scores: Annotated[bool, typer.Option("--scores", help="The score of every label too.")] = False,
    format: Annotated[
        Format | None, typer.Option(help="What a line is, where ending or first line mislead.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Answer all tasks for each row: one JSON object a line, task name to answer.

    Rows are read from .jsonl (objects, or plain texts), .csv, .tsv, .parquet, .txt (a text a line), or any
    other file that `fit` reads. A pipe is JSON Lines if its first line is a JSON object or a JSON string, and
    else a text on each line. A row without the input of a task has null for its answer.
    """
    if input == "-" and sys.stdin.isatty():
        raise typer.BadParameter("give a file, or pipe rows in", param_hint="--input")
    from taskheads import load
    from taskheads.cli.progress import progress

    model = load(folder)
    chosen = [name.strip() for name in tasks.split(",")] if tasks is not None else None
    words = {task.inputs[0] for task in model.tasks.values() if task.kind == "tag"}
    with (
        open_rows(input, format, words) as rows,
        progress(quiet=quiet) as report,
        _destination(output) as answers,
    ):
        answered = 0
        for done, answer in enumerate(_answers(model, rows, chosen, scores), start=1):
            answers.write(json.dumps(answer, ensure_ascii=False) + "\n")
            answered += any(value is not None for value in answer.values())
            if report and done % 100 == 0:
                report("predict", done, max(done, rows.expected()))
        if report:
            report("predict", rows.count, rows.count)
        if rows.count and not answered:
            raise _nothing_to_read(model, rows.name, chosen)


def evaluate(
    folder: Folder,
    data: Annotated[
        str | None, typer.Option(metavar="SUITE", help="Other data than the model was fitted on.")
    ] = None,
    split: Annotated[Split, typer.Option(help="The split to judge on.")] = Split.test,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score each task on rows that were not trained on, with 95 % intervals and a baseline."""
    from taskheads import load
    from taskheads.cli.output import show, show_json

    scores = load(folder).evaluate(data, split=split.value)
    if as_json:
        show_json([asdict(score) for score in scores])
        return
    from taskheads.report.scores import scores_table

    show(scores_table(scores))


def _answers(model: Model, rows: Incoming, tasks: list[str] | None, scores: bool) -> Iterator[dict]:
    """The model's answers; an error in a row names the file and line instead of the row's number."""
    try:
        yield from model.predict_stream(rows, tasks=tasks, scores=scores)
    except DataError as error:
        if error.file is not None or error.row is None:
            raise
        place = {"file": rows.name, "row": rows.line(error.row), "column": error.column}
        raise DataError(error.problem, value=error.value, **place) from error


@contextmanager
def _destination(output: Path | None) -> Iterator[TextIO]:
    from taskheads.cli.output import json_to, whole_file

    if output is None:
        yield json_to(sys.stdout)
    else:
        with whole_file(output) as file:
            yield file


def _nothing_to_read(model: Model, name: str, chosen: list[str] | None) -> DataError:
    from taskheads.tasks.suggest import listed

    tasks = [task for task in model.tasks.values() if chosen is None or task.name in chosen]
    columns = dict.fromkeys(column for task in tasks for column in task.inputs)
    return DataError(f"no row has what a task reads: the columns are {listed(columns)}", file=name)
