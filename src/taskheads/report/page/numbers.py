"""Numbers as people read them; what is missing is a dash."""

from __future__ import annotations

import math
from typing import TypeGuard

MISSING = "–"


def known(value: object) -> TypeGuard[float]:
    """Whether there is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def decimal(value: object, places: int = 3) -> str:
    """0.912, or −0.120 with a true minus sign."""
    return f"{value:,.{places}f}".replace("-", "−") if known(value) else MISSING


def signed(value: object, places: int = 3) -> str:
    """+0.012, −0.004, or 0.000 without a sign."""
    if not known(value):
        return MISSING
    text = decimal(abs(value), places)
    if float(text.replace(",", "")) == 0:
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def short(value: object) -> str:
    """Three digits that count: 0.00005 is 5e-05, 12345 is 12,345."""
    if not known(value):
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}".replace("-", "−")


def duration(seconds: object) -> str:
    """0.4 s, 12 s, 4 min 12 s, 1 h 2 min."""
    if not known(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def count_of(count: int, singular: str, plural: str = "") -> str:
    """1 task, 8 tasks, no tasks."""
    noun = singular if count == 1 else plural or f"{singular}s"
    return f"{count:,} {noun}" if count else f"no {noun}"
