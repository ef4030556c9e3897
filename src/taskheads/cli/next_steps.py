"""What to type next: real commands, for the model that was just fitted."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskheads.tasks.task import Task

_STREAMED = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


def next_steps(folder: Path, tasks: Iterable[Task], sources: Sequence[str] = ()) -> list[str]:
    """Command lines for the model in `folder`, on the data it was fitted on where that can be read again."""
    tasks = list(tasks)
    model = f"{program()} {{}} {shlex.quote(str(folder))}"
    rows = rows_at_hand(sources)
    steps = [f"{model.format('predict')} --input {shlex.quote(str(rows))} | head -3"] if rows else []
    steps += [
        f"echo {shlex.quote(example(tasks))} | {model.format('predict')}",
        model.format("evaluate"),
        f"{model.format('add')} your_file.csv",
    ]
    return steps + ([f"{model.format('remove')} {shlex.quote(tasks[-1].name)}"] if len(tasks) > 1 else [])


def rows_at_hand(sources: Sequence[str]) -> Path | None:
    """A file among what a model was fitted on that `predict` takes, test rows if there are any."""
    paths = [Path(source) for source in sources]
    if paths and paths[0].suffix.lower() in (".yaml", ".yml"):
        from taskheads.tasks.config import read_config

        declared = read_config(paths[0])
        said = [task.data or declared.config.data or {} for task in declared.config.tasks.values()]
        named = [path for files in said for split in ("test", "", "train") for path in files.get(split, [])]
        paths = [declared.base / path for path in named]
    for path in paths:
        held = sorted(path.glob("test.*")) if path.is_dir() else [path]
        for file in held:
            if file.is_file() and file.suffix.lower() in _STREAMED:
                return file
    return None


def example(tasks: Iterable[Task]) -> str:
    """A row as a user would type it: a plain text if that answers something, else an object of texts."""
    columns = [task.inputs for task in tasks]
    if any(len(inputs) == 1 for inputs in columns):
        return "a text to be answered"
    return json.dumps(dict.fromkeys(columns[0], "a text"))


def program() -> str:
    """How this program was called, so that it can be called like that again."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m taskheads"
    found = shutil.which(called.name)
    return called.name if found and Path(found).resolve() == called.resolve() else shlex.quote(sys.argv[0])
