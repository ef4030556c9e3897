"""What is asked of which model about which rows, and the answers block by block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskheads.bulk.blocks import Block, in_blocks
from taskheads.bulk.incoming import Format, open_rows
from taskheads.errors import DataError
from taskheads.model.prediction import BLOCK, Answers, answer_block, chosen
from taskheads.model.saving import MANIFEST

if TYPE_CHECKING:
    from taskheads.model.model import Model


@dataclass(frozen=True)
class Job:
    """Rows, a model and its tasks: small, and the same on every machine that can read both paths.

    Parameters
    ----------
    folder: of the model.
    source: a file, or "-" for standard input.
    format: what `source` is, in place of what its ending or its first line tells.
    tasks: those to be answered.
    columns: what these tasks read; `words` are those that may hold lists of words.
    scores: whether answers carry the probability of every label.
    """

    folder: str
    source: str
    format: Format | None
    tasks: tuple[str, ...]
    columns: tuple[str, ...]
    words: tuple[str, ...]
    scores: bool

    @classmethod
    def of(
        cls,
        model: Model,
        folder: str | Path,
        source: str | Path,
        *,
        tasks: Sequence[str] | None = None,
        scores: bool = False,
        format: Format | None = None,
    ) -> Job:
        """A job for the model of a folder. Raises ConfigError for a task that it has not."""
        asked = [head.task for head in chosen(model.heads, tasks).values()]
        return cls(
            str(folder),
            str(source),
            format,
            tuple(task.name for task in asked),
            tuple(sorted({column for task in asked for column in task.inputs})),
            tuple(sorted({task.inputs[0] for task in asked if task.kind == "tag"})),
            scores,
        )

    def blocks(self, done: int = 0, digest: str = "") -> Iterator[Block]:
        """The rows after the `done` first ones, whose digest is given (`in_blocks`)."""
        with open_rows(self.source, self.format, columns=self.columns, words=self.words) as rows:
            yield from in_blocks(rows, self.columns, done, digest)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on where another was cut off; of rows it is their digest."""
        manifest = (Path(self.folder) / MANIFEST).read_bytes()
        model = hashlib.sha256(manifest).hexdigest()
        return {"model": model, "tasks": list(self.tasks), "scores": self.scores, "block": BLOCK}


@dataclass(frozen=True)
class Answered:
    """The answers to a block, and what `Block` says of it; `first_line` is the line of its first row."""

    source: str
    first_line: int
    last_row: int
    digest: str
    expected: int
    answers: Answers

    def located(self, error: DataError) -> DataError:
        """An error about the input as a whole, as one at the first line of these."""
        return DataError(error.problem, file=self.source, row=self.first_line)


def answered(model: Model, job: Job, block: Block) -> Answered:
    """The answers to a block; an error in a row names the file and line."""
    heads = {name: model.heads[name] for name in job.tasks}
    try:
        answers = answer_block(
            heads, model.backbone_of, block.rows, first_row=block.first_row, scores=job.scores
        )
    except DataError as error:
        raise block.located(error) from None
    return Answered(block.source, block.lines[0], block.last_row, block.digest, block.expected, answers)
