"""`taskheads compare`: which way of fitting is best for these tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from taskheads.cli.arguments import NoCache, Quiet, Sources, named_after, one_source
from taskheads.errors import ConfigError

_MINUTES = {"s": 1 / 60, "m": 1.0, "h": 60.0}


def compare(
    source: Sources,
    methods: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="frozen, full, auto, and names of `taskheads methods`."),
    ] = None,
    family: Annotated[str | None, typer.Option(help="All ways of this family.  [default: edits]")] = None,
    budget: Annotated[str, typer.Option(metavar="TIME", help="As 90s, 20m or 1.5h.")] = "20m",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each candidate.")] = 1,
    search: Annotated[int, typer.Option(min=0, help="Variants to try beside: options, rates, groups.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, which share the cores.")] = 1,
    out: Annotated[Path | None, typer.Option(help="A folder.  [default: runs/<SOURCE>-compared]")] = None,
    backbone: Annotated[str | None, typer.Option(help="A folder or a Hub name.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with one that was stopped.")] = False,
    no_cache: NoCache = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """Compare ways of fitting: quality, size, time, memory.

    SOURCE is a suite (YAML), or data files: their columns then tell the tasks.

    Candidates run on few rows first, and the best of them on more; those that reach all rows are judged on
    test, once. What is recommended is written as a suite file, which `taskheads fit` takes as it is.
    """
    from taskheads.backbone.cache import FeatureCache
    from taskheads.cli.output import show, show_json
    from taskheads.cli.progress import progress
    from taskheads.compare.comparing import RECOMMENDED
    from taskheads.compare.comparing import compare as compared
    from taskheads.compare.ledger import write_text
    from taskheads.report.compared import compared_table
    from taskheads.report.page.tradeoff import tradeoff

    minutes = minutes_of(budget)
    folder = out or Path("runs") / f"{named_after(source[0])}-compared"
    with progress(quiet=quiet) as report:
        found = compared(
            one_source(source),
            out=folder,
            methods=None if methods is None else [each.strip() for each in methods.split(",")],
            family=family,
            budget=minutes,
            seeds=seeds,
            search=search,
            jobs=jobs,
            backbone=backbone,
            resume=resume,
            cache=None if no_cache else FeatureCache(),
            progress=report,
        )
    picture = folder / "comparison.svg"
    write_text(picture, tradeoff(found))
    if as_json:
        show_json(found)
        return
    show(compared_table(found))
    print("\n" + "\n".join(found["words"]))
    print(f"\nThe picture: {picture}. To fit what is recommended:\n\n  taskheads fit {folder / RECOMMENDED}")


def minutes_of(text: str) -> float:
    """Minutes of "90s", "20m", "1.5h"; a plain number is minutes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if found is None or not float(found[1]):
        raise ConfigError(f"--budget {text!r} is no time: as 90s, 20m or 1.5h")
    return float(found[1]) * _MINUTES[found[2] or "m"]
