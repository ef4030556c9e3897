"""Whether progress is drawn: on a terminal, unless somebody asked for quiet; elsewhere nothing is printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskheads.cli.bars import Bars

Report = Callable[[str, int, int], None]


@contextmanager
def bars(*, quiet: bool = False) -> Iterator[Bars | None]:
    """Bars on stderr, one for each stage; None if nobody watches."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from taskheads.cli.bars import Bars

    with Bars() as drawn:
        yield drawn


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Report | None]:
    """A callable `(stage, done, total)` that draws a bar for each stage on stderr; None if nobody watches."""
    with bars(quiet=quiet) as drawn:
        yield drawn.report if drawn else None
