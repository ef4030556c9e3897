"""Arguments that several commands take, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taskheads.errors import ConfigError

Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE", help="A suite (YAML), or data: files, folders, datasets.")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither use nor keep features on disk.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Data = Annotated[str | None, typer.Option(metavar="SUITE", help="Other data than the model was fitted on.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a model.")]


def named_after(source: str) -> str:
    """What is made of a source is called after it: a folder's name, a file's without its ending."""
    path = Path(source).resolve()
    return path.name if path.is_dir() else path.stem


def one_source(sources: list[str]) -> str | list[str]:
    """What `taskheads.fit` takes for the sources of a command line."""
    if len(sources) == 1:
        return sources[0]
    for source in sources:
        if Path(source).suffix.lower() in (".yaml", ".yml"):
            raise ConfigError(f"{source}: a suite file is given alone: it names its data itself")
    return sources
