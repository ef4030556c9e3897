"""Where output goes: tables for people, JSON for programs."""

from __future__ import annotations

import io
import json
import sys
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
