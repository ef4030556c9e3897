"""The command line: parse, call the package, print. What it prints is made in `taskheads.report`."""

from __future__ import annotations


def main() -> None:
    """Run the command in `sys.argv` and exit: 0 done, 2 the user's to mend, 130 interrupted."""
    from taskheads.cli.app import app

    app(prog_name="taskheads")
