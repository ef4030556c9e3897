"""`taskheads predict` and `evaluate`: the answers of a model, and how good they are."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taskheads.bulk.incoming import Format
from taskheads.cli.arguments import Data, Folder, Quiet
from taskheads.errors import DataError

if TYPE_CHECKING:
    from taskheads.bulk.predict import Prediction


class Split(StrEnum):
    """The splits on which a model can be judged."""

    test = "test"
    dev = "dev"


class Engine(StrEnum):
    """Where rows are answered."""

    local = "local"
    ray = "ray"


def predict(
    folder: Folder,
    input: Annotated[str, typer.Option("--input", "-i", help="A file of rows, or - for a pipe.")] = "-",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file for the answers, .jsonl or .parquet, instead of a pipe."),
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks: a,b,c.")] = None,
    scores: Annotated[bool, typer.Option("--scores", help="The score of every label too.")] = False,
    format: Annotated[
        Format | None, typer.Option(help="What a line is, where ending or first line mislead.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the output of a run that was cut off.")
    ] = False,
    engine: Annotated[
        Engine, typer.Option(help="Answer here, or as a Ray Data job on a cluster.")
    ] = Engine.local,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes of the cluster that answer.  [default: one for four processors]"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Answer all tasks for each row, as JSON Lines or Parquet.

    An answer is one JSON object on a line, task name to answer; a row without the input of a task has null.
    In Parquet each task is a column. Rows are read from .jsonl (objects, or plain texts), .csv, .tsv,
    .parquet, .txt (a text a line), or any other file that `fit` reads. A pipe is JSON Lines if its first line
    is a JSON object or a JSON string, and else a text on each line.
    """
    if input == "-" and sys.stdin.isatty():
        raise typer.BadParameter("give a file, or pipe rows in", param_hint="--input")
    if resume and output is None:
        raise typer.BadParameter("what is piped cannot be gone on with: name a file", param_hint="--output")
    from taskheads.bulk.predict import Prediction
    from taskheads.cli.progress import progress

    chosen = [name.strip() for name in tasks.split(",")] if tasks is not None else None
    with progress(quiet=quiet) as report:
        prediction = Prediction(
            folder,
            input,
            tasks=chosen,
            scores=scores,
            format=format,
            engine=engine.value,
            workers=workers,
            progress=report,
        )
        if output is None:
            _print(prediction)
        else:
            _write(prediction, output, resume)


def evaluate(
    folder: Folder,
    data: Data = None,
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


def _print(prediction: Prediction) -> None:
    from taskheads.cli.output import json_to

    out = json_to(sys.stdout)
    for answer in prediction:
        out.write(json.dumps(answer, ensure_ascii=False) + "\n")


def _write(prediction: Prediction, output: Path, resume: bool) -> None:
    """Write the file; if it is not to be, say what is kept of it."""
    from taskheads.bulk.draft import folder_of, kept_rows

    try:
        prediction.write(output, resume=resume)
    except (DataError, OSError, KeyboardInterrupt):
        if rows := kept_rows(output):
            print(f"{rows:,} rows are answered, in {folder_of(output)}; --resume goes on", file=sys.stderr)
        raise
