"""Answers on their way to a file: kept block by block, so that a run which is killed can go on.

    answers.jsonl.partial/      beside the output, until that is whole
        journal                 what the answers belong to, then a line for each block that is in `blocks`
        blocks                  the answers so far

A block counts once its line in the journal is whole, which is written when the block is on disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from taskheads.errors import ConfigError
from taskheads.model.prediction import BLOCK

WHOLE = "whole"
_OTHER = {"tasks": "other tasks", "scores": "another choice of --scores", "block": "another release"}


@dataclass(frozen=True)
class Mark:
    """Where a block ends: the rows and bytes so far, the digest of these rows, whether any has an answer."""

    rows: int = 0
    end: int = 0
    digest: str = ""
    has_answer: bool = False


class Draft:
    """What is kept of the answers to one output; `marks` has one for each block."""

    def __init__(self, folder: Path, journal: IO[bytes], blocks: IO[bytes], marks: list[Mark]) -> None:
        self.folder, self.marks = folder, marks
        self._journal, self._blocks = journal, blocks

    @property
    def last(self) -> Mark:
        """Where the last block ends."""
        return self.marks[-1] if self.marks else Mark()

    def append(self, block: bytes, *, rows: int, digest: str, has_answer: bool) -> None:
        """Keep a block; `rows` and `digest` are those of all rows so far."""
        self._blocks.write(block)
        _to_disk(self._blocks)
        mark = Mark(rows, self.last.end + len(block), digest, self.last.has_answer or has_answer)
        self._journal.write(_line(asdict(mark)))
        _to_disk(self._journal)
        self.marks.append(mark)

    @property
    def blocks(self) -> Path:
        """The file of the blocks, which end where the marks say."""
        return self.folder / "blocks"

    @property
    def whole(self) -> Path:
        """Where the output is made before it takes its name."""
        return self.folder / WHOLE


def folder_of(output: Path) -> Path:
    """Where the answers are kept until they are whole."""
    return output.with_name(f"{output.name}.partial")


def kept_rows(output: Path) -> int:
    """How many rows are answered in the draft of an output; 0 if there is none."""
    try:
        with (folder_of(output) / "journal").open("rb") as journal:
            marks = _read(journal)[1]
    except FileNotFoundError:
        return 0
    return marks[-1].rows if marks else 0


@contextmanager
def open_draft(output: Path, identity: Mapping[str, Any], *, resume: bool) -> Iterator[Draft]:
    """The draft of an output: a new one, or, to `resume`, the one that is there.

    It is gone on the way out, unless an error ends the run after a whole block was kept.

    Parameters
    ----------
    identity: what must be the same for one run to go on with the draft of another, as JSON.

    Raises
    ------
    ConfigError: there is a draft, and `resume` is False; or it has another identity; or another process is
        writing it.
    """
    folder = folder_of(output)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "journal").open("a+b") as journal, (folder / "blocks").open("a+b") as blocks:
        _alone(journal, folder)
        draft = Draft(folder, journal, blocks, _begin(folder, journal, blocks, identity, resume))
        try:
            yield draft
        except BaseException:
            if not _whole(draft.marks):
                _remove(folder)
            raise
        _remove(folder)


def _begin(
    folder: Path, journal: IO[bytes], blocks: IO[bytes], identity: Mapping[str, Any], resume: bool
) -> list[Mark]:
    """The marks of the blocks to be kept; what stands after the last of them is cut off."""
    header, marks = _read(journal)
    size = os.fstat(blocks.fileno()).st_size
    marks = _whole(mark for mark in marks if mark.end <= size)
    if not marks:
        blocks.truncate(0)
        journal.truncate(0)
        journal.write(_line(identity))
        _to_disk(journal)
        return []
    if not resume:
        raise ConfigError(
            f"{folder} holds the answers to {marks[-1].rows:,} rows of a run that was cut off: "
            "go on with it (--resume), or delete it"
        )
    for key, value in identity.items():
        if header.get(key) != value:
            raise ConfigError(
                f"{folder} was begun with {_OTHER.get(key, f'another {key}')}: "
                "go on with it as it was begun, or delete it"
            )
    blocks.truncate(marks[-1].end)
    journal.truncate(sum(len(_line(line)) for line in (header, *map(asdict, marks))))
    return marks


def _read(journal: IO[bytes]) -> tuple[dict[str, Any], list[Mark]]:
    """The identity, and the marks whose lines are whole."""
    journal.seek(0)
    identity: dict[str, Any] = {}
    marks: list[Mark] = []
    with suppress(ValueError, TypeError):  # a machine that lost its power may have left anything at the end
        for number, line in enumerate(journal.read().split(b"\n")[:-1]):
            if number:
                marks.append(Mark(**json.loads(line)))
            else:
                identity = json.loads(line)
    return identity, marks


def _whole(marks: Iterable[Mark]) -> list[Mark]:
    """Those of whole blocks. The rows of a short one are the last ones, unless the input has grown since."""
    return [mark for mark in marks if mark.rows % BLOCK == 0]


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _alone(journal: IO[bytes], folder: Path) -> None:
    """Make sure that no other process writes the draft, where the system can tell."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another process is writing {folder}") from None


def _remove(folder: Path) -> None:
    for name in ("journal", "blocks", WHOLE):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # a folder with files of somebody else's stays
        folder.rmdir()
