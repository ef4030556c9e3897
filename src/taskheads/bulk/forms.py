"""What answers are written as: JSON Lines, or a Parquet file of typed columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as parquet

from taskheads.bulk.columns import schema_of
from taskheads.model.prediction import Answers
from taskheads.tasks.task import Task

# What people scan quickly and hold easily: a few seconds of answers, some tens of megabytes of embeddings.
_ROW_GROUP = 1 << 15


class Form(Protocol):
    """A form of output: how a block of answers is kept until all are there, and what is then made of them."""

    def encode(self, answers: Answers) -> bytes:
        """One block, so that whole blocks may stand one after another."""

    def finish(self, blocks: Path, ends: Sequence[int], to: Path) -> Path:
        """The whole of the file `blocks`, whose blocks end at these bytes: that file itself, or `to`."""


def form_of(output: Path, tasks: Iterable[Task], *, scores: bool) -> Form:
    """Parquet if the file's name ends so, else JSON Lines."""
    if output.suffix.lower() == ".parquet":
        return Parquet(tasks, scores=scores)
    return JsonLines()


class JsonLines:
    """One JSON object a row, {task: answer}."""

    def encode(self, answers: Answers) -> bytes:
        return "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers).encode()

    def finish(self, blocks: Path, ends: Sequence[int], to: Path) -> Path:
        return blocks


class Parquet:
    """A struct column a task, as `schema_of` types it.

    A Parquet file that is cut off cannot be read, nor gone on with. So blocks are kept as Arrow record
    batches, and the file is made of them when all are there, a row group at a time.
    """

    def __init__(self, tasks: Iterable[Task], *, scores: bool) -> None:
        self._schema = schema_of(tasks, scores=scores)

    def encode(self, answers: Answers) -> bytes:
        return pa.RecordBatch.from_pylist(answers, schema=self._schema).serialize().to_pybytes()

    def finish(self, blocks: Path, ends: Sequence[int], to: Path) -> Path:
        with (
            blocks.open("rb") as file,
            parquet.ParquetWriter(to, self._schema, compression="zstd") as writer,
        ):
            waiting: list[pa.RecordBatch] = []
            for start, end in zip([0, *ends], ends, strict=False):
                batch = pa.ipc.read_record_batch(pa.py_buffer(file.read(end - start)), self._schema)
                waiting.append(batch)
                if sum(each.num_rows for each in waiting) >= _ROW_GROUP or end == ends[-1]:
                    writer.write_table(pa.Table.from_batches(waiting))
                    waiting = []
        return to
