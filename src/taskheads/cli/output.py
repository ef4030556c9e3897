"""Where output goes: tables for people, JSON for programs, files that are whole or not there."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

_UNWRAPPED = 10_000


def show(*parts: RenderableType) -> None:
    """Print for people: as wide as the terminal, or plain text with a line for each row in a pipe or file."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False).print(*parts, sep="\n")
        return
    text = io.StringIO()
    console = Console(file=text, width=_UNWRAPPED, color_system=None, highlight=False)
    console.print(*parts, sep="\n")
    sys.stdout.writelines(line.rstrip() + "\n" for line in text.getvalue().splitlines())


def show_json(value: Any) -> None:
    """Print one indented JSON document."""
    json_to(sys.stdout).write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def json_to(stream: TextIO) -> TextIO:
    """The stream, as UTF-8 whatever the locale says: that is what JSON is."""
    if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
        stream.reconfigure(encoding="utf-8")
    return stream


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file to write that takes its name only when all of it is written; else nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
