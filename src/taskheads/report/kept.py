"""What the feature cache holds: the report of `taskheads cache show`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from rich.console import Group
from rich.text import Text

from taskheads.report.tables import Column, FittedTable

_SHORT = 12


class Kept(Protocol):
    """What is printed of a `taskheads.backbone.cache.Entry`."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def read(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def last_used(self) -> float: ...


def kept_features(entries: Sequence[Kept], folder: Path) -> Group:
    """A line for each read of a backbone, and how much that is in all."""
    total = sum(entry.bytes for entry in entries)
    if not entries:
        return Group(Text(f"nothing is kept in {folder}"))
    used = [datetime.fromtimestamp(entry.last_used).strftime("%Y-%m-%d %H:%M") for entry in entries]
    table = FittedTable(
        [
            Column("read", [entry.read for entry in entries]),
            Column("rows", [f"{entry.rows:,}" for entry in entries], right=True),
            Column("size", [size(entry.bytes) for entry in entries], right=True),
            Column("last used", used, spare=1),
            Column("backbone", [entry.fingerprint[:_SHORT] for entry in entries], spare=2),
        ]
    )
    return Group(table, Text(f"\n{size(total)} in {folder}"))


def size(count: int) -> str:
    """Bytes for people: "512 B", "3.4 MB"."""
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
