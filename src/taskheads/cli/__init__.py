"""The command line: parse, call the package, print. What it prints is made in `taskheads.report`."""

from __future__ import annotations

import os

# Compiled operators that oneDNN keeps. It makes one for every number of tokens that an activation meets, in
# 0.2 ms, and keeps 1,024 by default, of which a batch uses a few. What little they take lies between large
# arrays that come and go, so that the memory of a process that runs for long grows by some 100 MB.
_OPERATORS_KEPT = "8"


def main() -> None:
    """Run the command in `sys.argv` and exit: 0 done, 2 the user's to mend, 130 interrupted."""
    from taskheads.cli.app import app

    # Read once, when the first operator is made.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", _OPERATORS_KEPT)
    app(prog_name="taskheads")
