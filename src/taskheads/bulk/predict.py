"""A model's answers to rows of any number: one after another, or to a file that is whole or resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from taskheads.bulk.incoming import Format
from taskheads.bulk.job import Answered, Job, answered
from taskheads.errors import DataError
from taskheads.model.prediction import Answers, from_first_answer, has_answer, no_inputs

if TYPE_CHECKING:
    from taskheads.model.model import Model

Engine = Literal["local", "ray"]
Progress = Callable[[str, int, int], None]


class Prediction:
    """What a model answers to the rows of a file or a pipe, in constant memory.

    Iterating gives {task: answer} for each row, in the rows' order; `write` writes all of them.

    Parameters
    ----------
    folder: of the model.
    source: a file of rows, or "-" for standard input (`open_rows` says what can be read).
    tasks: names of the tasks to answer; all by default.
    scores: whether answers carry the probability of every label.
    format: what `source` is, in place of what its ending or its first line tells.
    engine: "local" answers in this process, "ray" on a cluster (`answered_by_ray`).
    workers: with "ray", how many processes answer; by default one for each four processors.
    progress: called with ("predict", rows done, about how many there are, or 0) after every block.

    Raises
    ------
    ModelError: the folder holds no whole model. ConfigError: a task that it has not, or a model without
    tasks. While it runs, DataError: a row that cannot be read, by file and line, or an input of which no row
    has what any task needs.
    """

    def __init__(
        self,
        folder: str | Path,
        source: str | Path = "-",
        *,
        tasks: Sequence[str] | None = None,
        scores: bool = False,
        format: Format | None = None,
        engine: Engine = "local",
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        from taskheads.model.model import Model

        self._model: Model = Model.load(folder)
        self._job = Job.of(self._model, folder, source, tasks=tasks, scores=scores, format=format)
        self._heads = {name: self._model.heads[name] for name in self._job.tasks}
        self._engine, self._workers, self._progress = engine, workers, progress

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The answers row by row; where the first blocks have none, they come once a row has one."""
        first: Answered | None = None

        def answers() -> Iterator[Answers]:
            nonlocal first
            for block in self._answered():
                first = first or block
                yield block.answers

        try:
            for some in from_first_answer(answers(), self._heads):
                yield from some
        except DataError as error:
            raise error if first is None or error.file is not None else first.located(error) from None

    def write(self, output: str | Path, *, resume: bool = False) -> int:
        """Write the answers to a file, Parquet if its name ends so, else JSON Lines; return how many.

        The file is there when all of it is written. What a run that ends too early has answered is kept
        beside it in a folder `<output>.partial`.

        Parameters
        ----------
        resume: go on with what is kept there, if anything is: nothing of it is answered again, and the file
            is byte for byte what one run would have written.

        Raises
        ------
        ConfigError: answers are kept that `resume` does not ask for, or that are of another model or of other
        tasks. DataError: the rows that were answered are not the first ones of the source.
        """
        from taskheads.bulk.draft import open_draft
        from taskheads.bulk.forms import form_of

        output = Path(output)
        form = form_of(output, [head.task for head in self._heads.values()], scores=self._job.scores)
        with open_draft(output, self._job.identity(), resume=resume) as draft:
            first: Answered | None = None
            for block in self._answered(draft.last.rows, draft.last.digest):
                first = first or block
                draft.append(
                    form.encode(block.answers),
                    rows=block.last_row,
                    digest=block.digest,
                    has_answer=has_answer(block.answers),
                )
            if first is not None and not draft.last.has_answer:
                raise first.located(no_inputs(self._heads))
            whole = form.finish(draft.blocks, [mark.end for mark in draft.marks], draft.whole)
            with whole.open("rb") as file:
                os.fsync(file.fileno())
            whole.replace(output)
        return draft.last.rows

    def _answered(self, done: int = 0, digest: str = "") -> Iterator[Answered]:
        """The answers to the rows after the `done` first ones, block by block."""
        if self._engine == "ray":
            from taskheads.bulk.cluster import answered_by_ray

            blocks = answered_by_ray(self._job, self._workers, done, digest)
        else:
            blocks = (answered(self._model, self._job, block) for block in self._job.blocks(done, digest))
        for block in blocks:
            yield block
            if self._progress is not None:
                self._progress("predict", block.last_row, max(block.last_row, block.expected))
