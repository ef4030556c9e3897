"""`taskheads check`: what is understood of each file and why, before anything runs."""

from __future__ import annotations

from typing import Annotated

import typer

from taskheads.cli.arguments import Sources, one_source


def check(
    source: Sources,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is understood of data, and why."""
    from taskheads.cli.output import show, show_json
    from taskheads.tasks.describe import describe
    from taskheads.tasks.suite import load_suite

    suite = load_suite(one_source(source))
    tasks = describe(suite)
    if as_json:
        show_json({"backbone": suite.backbone, "seed": suite.seed, "tasks": tasks})
        return
    from taskheads.report.understood import understood

    show(understood(tasks, suite.backbone, suite.seed))
