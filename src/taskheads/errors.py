"""Errors that are the user's to mend: one clear sentence each, never a traceback on the command line."""

from __future__ import annotations

from pathlib import Path

_ABSENT = object()


class TaskheadsError(Exception):
    """Base of every error with a message for the user; the command line prints it and exits with code 2."""


class ConfigError(TaskheadsError):
    """A suite file (or the equivalent arguments) says something that cannot be meant."""


class BackboneError(TaskheadsError):
    """The pretrained transformer is not there, cannot be read, or cannot do what was asked."""


class ModelError(TaskheadsError):
    """A saved model folder is missing, incomplete, altered, or of a version this release does not know."""


class TrainingError(TaskheadsError):
    """A training run stopped, and says why, what of it is kept and how to go on."""


class Interrupted(TrainingError):
    """A training run was stopped by Ctrl-C."""


class DataError(TaskheadsError):
    """Something in the data is wrong: the message names file, row, column and value, as far as they exist.

    `row` is what the user would look up: the line in a text file, the 1-based record in a binary one.
    The value is shown with `repr`, cut to 60 characters.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        row: int | None = None,
        column: str | None = None,
        value: object = _ABSENT,
    ) -> None:
        self.problem, self.file, self.row, self.column = problem, file, row, column
        self.value = None if value is _ABSENT else value
        place = [str(file)] if file is not None else []
        if row is not None:
            place.append(f"row {row}")
        if column is not None:
            place.append(f"column {column!r}")
        if value is not _ABSENT:
            shown = repr(value)
            place.append(f"value {shown if len(shown) <= 60 else shown[:57] + '...'}")
        super().__init__(f"{', '.join(place)}: {problem}" if place else problem)
