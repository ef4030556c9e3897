"""One batch of many tasks: their rows end to end, and what each task's head finds there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.backbone.reads import pool
from taskheads.heads import Head
from taskheads.sharing.gradients import TaskGradients
from taskheads.training.joint.rows import TaskRows

RunBackbone = Callable[[RaggedBatch, Sequence[str]], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Part:
    """One task's part of a batch.

    count: its rows. rows: where in the batch they stand, one slice for each request of its head.
    tokens: the slice of all its tokens. words: the slice of its words among all words of the batch.
    targets, lengths: as `Head.loss` takes them.
    """

    count: int
    rows: tuple[slice, ...]
    tokens: slice
    words: slice
    targets: torch.Tensor
    lengths: list[int] | None


class MixedBatch:
    """Rows of several tasks without padding, sorted by task, so that every task is a slice.

    Parameters
    ----------
    rows: the tasks' rows to take from.
    drawn: which of them, by task; a task's rows are sorted by length, to attend in few groups.
    """

    def __init__(self, rows: Mapping[str, TaskRows], drawn: Mapping[str, np.ndarray]) -> None:
        encoded: list[Encoded] = []
        self.parts: dict[str, Part] = {}
        tokens = words = 0
        for name, chosen in drawn.items():
            mine = rows[name]
            chosen = chosen[np.argsort(mine.tokens[chosen], kind="stable")]
            places, first, first_word = [], tokens, words
            for request in mine.encoded:
                places.append(slice(len(encoded), len(encoded) + len(chosen)))
                encoded += [request[row] for row in chosen]
                tokens += sum(len(request[row]) for row in chosen)
                words += sum(request[row].n_words for row in chosen)
            lengths = None if mine.words is None else mine.words[chosen].tolist()
            self.parts[name] = Part(
                len(chosen),
                tuple(places),
                slice(first, tokens),
                slice(first_word, words),
                mine.targets_of(chosen),
                lengths,
            )
        # A row that two requests take stands twice.
        tasks = [(name, len(part.rows) * part.count) for name, part in self.parts.items()]
        self.ragged = RaggedBatch(encoded, tasks=tasks)

    @property
    def tokens(self) -> int:
        """Tokens of all tasks."""
        return len(self.ragged.ids)

    def split_run(self, gradients: TaskGradients, names: Sequence[str]) -> RunBackbone:
        """What runs the backbone so that these tasks' gradients are told apart; a task may have no rows
        here."""
        # A row that two requests take stands twice.
        rows = [len(part.rows) * part.count if (part := self.parts.get(name)) else 0 for name in names]
        return lambda ragged, sites: gradients.run(ragged, rows, sites)

    def losses(self, run: RunBackbone, heads: Mapping[str, Head]) -> dict[str, torch.Tensor]:
        """Each task's mean loss over its rows (words), with gradients to the backbone and the heads.

        `run` is `Backbone.run`, or what stands in for it.
        """
        losses = {}
        for name, scores in self.scores(run, heads).items():
            part = self.parts[name]
            losses[name] = heads[name].loss(scores, part.targets.to(scores.device), part.lengths)
        return losses

    def scores(self, run: RunBackbone, heads: Mapping[str, Head]) -> dict[str, torch.Tensor]:
        """What each task's head says of its part, as `Head.loss` takes it."""
        like = next(heads[next(iter(self.parts))].parameters())
        batch = self.ragged.to(like.device)
        reads = {read for name in self.parts for read in heads[name].reads}
        sites = list(dict.fromkeys(read.site for read in sorted(reads)))
        found = run(batch, sites)
        pooled = {read: pool(found[read.site], batch, read.pooling) for read in reads}
        scores = {}
        for name, part in self.parts.items():
            head = heads[name]
            taken = [
                {
                    read: pooled[read][part.words if read.of_words else rows].to(like.dtype)
                    for read in head.reads
                }
                for rows in part.rows
            ]
            scores[name] = head(head.gather(taken))
        return scores
