"""The commands by name, and what becomes of an error in any of them."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from taskheads.cli import (
    answering,
    cache,
    checking,
    comparing,
    exporting,
    fitting,
    inspecting,
    lowering,
    merging,
    methods,
    serving,
)
from taskheads.errors import TaskheadsError

USERS_TO_MEND = 2
PIPE_CLOSED = 141  # 128 + SIGPIPE: what a shell reports of `yes | head`
INTERRUPTED = 130  # 128 + SIGINT

# What the machine refuses, rather than what a program does wrong.
_REFUSALS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS})


class Guarded(TyperGroup):
    """Commands whose errors are one line each where the user can mend them, and a traceback where not."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a pipe that is closed should be found out here, not after all guards
            return result
        except TaskheadsError as error:
            _end(f"error: {error}", USERS_TO_MEND)
        except KeyboardInterrupt:
            _end("interrupted", INTERRUPTED)
        except BrokenPipeError:
            _end("", PIPE_CLOSED)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            place = f"{error.filename}: " if error.filename else ""
            _end(f"error: {place}{os.strerror(error.errno)}", USERS_TO_MEND)


def _end(line: str, code: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:
        # Python flushes once more when it exits, and must not meet the closed pipe or the full disk again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if line:
        print(line, file=sys.stderr)
    raise SystemExit(code)


app = typer.Typer(
    cls=Guarded,
    help="One shared transformer, many task heads: one model that answers all of your tasks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command()(fitting.fit)
app.command()(answering.predict)
app.command()(answering.evaluate)
app.command()(fitting.add)
app.command()(fitting.remove)
app.command()(checking.check)
app.command()(comparing.compare)
app.command()(inspecting.inspect)
app.command()(inspecting.prune)
app.command()(lowering.lower)
app.command()(merging.merge)
app.command()(serving.serve)
app.command()(exporting.export)
app.add_typer(methods.app, name="methods")
app.add_typer(cache.app, name="cache")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"taskheads {version('taskheads')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What the whole command takes; the version prints itself."""
