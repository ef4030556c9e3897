"""Retrieval heads: attention heads that copy from a long context what is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import averaged
from taskheads.attention.scores import HeadScores
from taskheads.attention.statistics import places_of
from taskheads.backbone.changes import Changes
from taskheads.backbone.generating import generate
from taskheads.backbone.patterns import Seen, Watcher
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import ConfigError
from taskheads.methods import method


@dataclass(frozen=True)
class Needle:
    """A row that ends in a question, and what answers it in there.

    Attributes
    ----------
    row: token ids. start, stop: the needle is row.ids[start:stop].
    """

    row: Encoded
    start: int
    stop: int

    @classmethod
    def hidden(
        cls, needle: Sequence[int], context: Sequence[int], question: Sequence[int], depth: float
    ) -> Needle:
        """A needle put into a context at a depth from 0 (before all) to 1 (after all), and then the question.
        Raises ConfigError for another depth, and for a needle without a token."""
        if not 0 <= depth <= 1 or not len(needle):
            raise ConfigError(f"a needle of {len(needle)} tokens cannot be hidden at depth {depth}")
        start = round(depth * len(context))
        ids = np.concatenate([context[:start], needle, context[start:], question])
        return cls(Encoded(ids.astype(np.int64)), start, start + len(needle))


@method("retrieval_heads", family="inspect", paper="arXiv:2404.15574", applies_to=("generate",))
def retrieval_scores(
    heads: AttentionHeads,
    language_head: nn.Module,
    needles: Sequence[Needle],
    *,
    most: int | None = None,
    at_once: int = 8,
) -> HeadScores:
    """For every attention head of a decoder, the share of a needle's tokens that it copies into the answer:
    |g_h ∩ k| / |k|, g_h being the tokens w, generated greedily, at which the key that the head looks at most
    is in the needle and is w; the mean over needles.

    Parameters
    ----------
    needles: in contexts of several lengths and at several depths. most: tokens of an answer at most; by
        default as many as the needle has. at_once: needles in one pass.

    Wu et al. 2024, section 2; heads above 0.1 are retrieval heads there. Raises ConfigError for no needle.
    """
    if not needles:
        raise ConfigError("retrieval is scored on needles, and there is none")
    batches = (range(start, min(len(needles), start + at_once)) for start in range(0, len(needles), at_once))
    device = heads.backbone.device

    def scored(batch: RaggedBatch) -> torch.Tensor:
        some = [needles[row] for row in batch.rows]
        longest = max(needle.stop - needle.start for needle in some)
        answers = generate(heads.backbone, language_head, batch, most=most or longest)
        if most is None:
            answers = [a[: n.stop - n.start] for a, n in zip(answers, some, strict=True)]
        return _copied(heads, some, answers)

    rows = (RaggedBatch([needles[row].row for row in some], [*some]).to(device) for some in batches)
    return averaged(heads, rows, scored, measured="retrieval")


@torch.inference_mode()
def _copied(heads: AttentionHeads, needles: Sequence[Needle], answers: Sequence[list[int]]) -> torch.Tensor:
    """[rows, layers, heads], from one pass over prompts and answers together."""
    rows = [
        Encoded(np.concatenate([needle.row.ids, answer[:-1]]).astype(np.int64))
        for needle, answer in zip(needles, answers, strict=True)
    ]
    batch = RaggedBatch(rows).to(heads.backbone.device)
    tokens: list[list[list[set[int]]]] = [
        [[set() for _ in range(count)] for count in heads.counts] for _ in needles
    ]

    def watch(layer: int, seen: Seen) -> None:
        best = seen.weights.argmax(-1)
        looked_at = batch.ids[places_of(seen, batch)]
        for at, row in enumerate(seen.rows.tolist()):
            needle, first = needles[row], len(needles[row].row) - 1
            for step, token in enumerate(answers[row]):
                query = first + step - seen.start
                if not 0 <= query < best.shape[2]:
                    continue
                keys = best[at, :, query]
                found = (keys >= needle.start) & (keys < needle.stop) & (looked_at[at, keys] == token)
                for head in found.nonzero()[:, 0].tolist():
                    tokens[row][layer][head].add(token)

    def watcher(layer: int) -> Watcher:
        return lambda seen: watch(layer, seen)

    heads.backbone.run(batch, (), Changes(watched={n: watcher(n) for n in range(heads.n_layers)}))
    scores = torch.full((len(needles), *heads.shape), torch.nan)
    for row, needle in enumerate(needles):
        wanted = set(needle.row.ids[needle.start : needle.stop].tolist())
        for layer, found in enumerate(tokens[row]):
            for head, copied in enumerate(found):
                scores[row, layer, head] = len(copied & wanted) / len(wanted)
    return scores
