"""`taskheads predict` and `evaluate`: the answers of a model, and how good they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from taskheads.cli.arguments import Folder, Quiet
from taskheads.cli.incoming import Format, Incoming, open_rows
from taskheads.errors import DataError

if TYPE_CHECKING:
    from taskheads.model.model import Model


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
    quiet: Quiet = False,
) -> None:
    """Answer all tasks for each row, as JSON Lines.

    An answer is one JSON object on a line, task name to answer; a row without the input of a task has null.
    Rows are read from .jsonl (objects, or plain texts), .csv, .tsv, .parquet, .txt (a text a line), or any
    other file that `fit` reads. A pipe is JSON Lines if its first line is a JSON object or a JSON string, and
    else a text on each line.
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
        for done, answer in enumerate(_answers(model, rows, chosen, scores), start=1):
            answers.write(json.dumps(answer, ensure_ascii=False) + "\n")
            if report and done % 100 == 0:
                report("predict", done, max(done, rows.expected()))
        if report:
            report("predict", rows.count, rows.count)


def evaluate(
    folder: Folder,
    data: Annotated[
        str | None, typer.Option(metavar="SUITE", help="Other data than the model was fitted on.")
    ] = None,
    split: Annotated[Split, typer.Option(help="The split to judge on.")] = Split.test,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Score each task on rows it was not fitted on.

    Beside each score stand its 95 % interval and what a baseline reaches that has learned nothing.
    """
    from taskheads import load
    from taskheads.backbone.cache import FeatureCache
    from taskheads.cli.output import show, show_json
    from taskheads.cli.progress import progress

    model = load(folder)
    with progress(quiet=quiet) as report:
        scores = model.evaluate(data, split=split.value, cache=FeatureCache(), progress=report)
    if as_json:
        show_json([score.to_json() for score in scores])
        return
    from taskheads.report.scores import scores_table

    show(scores_table(scores))


def _answers(model: Model, rows: Incoming, tasks: list[str] | None, scores: bool) -> Iterator[dict]:
    """The model's answers; an error in a row names the file and line instead of the row's number."""
    try:
        yield from model.predict_stream(rows, tasks=tasks, scores=scores)
    except DataError as error:
        raise rows.located(error) from None


@contextmanager
def _destination(output: Path | None) -> Iterator[TextIO]:
    from taskheads.cli.output import json_to, whole_file

    if output is None:
        yield json_to(sys.stdout)
    else:
        with whole_file(output) as file:
            yield file
