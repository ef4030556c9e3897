"""What search finds: the documents of a file, as vectors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from taskheads.bulk.incoming import open_rows
from taskheads.errors import DataError
from taskheads.heads import EmbedHead
from taskheads.model.prediction import BLOCK, BackboneOf, answer_block

Document = dict[str, Any]


class Collection:
    """Documents and their unit vectors [documents, d], searched exactly.

    Every document is a row of the file: an object with the task's document column, or a plain text. A hit
    carries the row as it is.
    """

    def __init__(self, documents: list[Document], vectors: torch.Tensor) -> None:
        self.documents, self.vectors = documents, vectors

    @classmethod
    def read(cls, path: Path, head: EmbedHead, backbone_of: BackboneOf) -> Collection:
        """Embed the documents of a file (whatever `taskheads predict` reads), as the documents of this task.

        Raises DataError for a row that has no document, and for a file without rows.
        """
        task, column = head.task.name, head.task.inputs[1]
        documents, parts = [], []
        with open_rows(str(path)) as rows:
            lines = ((line, row if isinstance(row, dict) else {column: row}) for line, row in rows)
            for block in _blocks(lines):
                for line, row in block:
                    if row.get(column) is None:
                        raise DataError("a document is needed", file=path, row=line, column=column)
                texts = [{column: row[column]} for _, row in block]
                answers = answer_block({task: head}, backbone_of, texts)
                parts.append(torch.tensor([answer[task]["embedding"] for answer in answers]))
                documents += [row for _, row in block]
        if not documents:
            raise DataError("no document is in it", file=path)
        return cls(documents, torch.cat(parts))

    def search(self, query: list[float], count: int) -> list[dict[str, Any]]:
        """The `count` best hits, best first: number of the document from 0 on, cosine, the row itself."""
        scores = self.vectors @ torch.tensor(query)
        best = scores.topk(min(count, len(self.documents)))
        return [
            {"index": at, "score": round(score, 6), "document": self.documents[at]}
            for score, at in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


def _blocks(rows: Any) -> Iterator[list]:
    rows = iter(rows)
    while block := list(islice(rows, BLOCK)):
        yield block
