"""Two texts and a label or a number: both encoded alone and compared, or encoded as one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch.nn.functional import normalize

from taskheads.backbone.reads import Read
from taskheads.heads.classify import ClassifyHead
from taskheads.heads.head import Request
from taskheads.heads.linear import LinearHead
from taskheads.heads.regress import RegressHead
from taskheads.tasks.task import Task


class _PairHead(LinearHead):
    """Features of two texts u, v.

    `encoding: two` (the default): for each read the cosine of u and v, |u - v| and u * v (Conneau et al.
    2017, InferSent, section 3.2), of unit vectors; with labels also u and v themselves, since a relation
    such as entailment has a direction. Each text is encoded once however many pairs it stands in.
    `encoding: joint`: the reads of both texts as one row, which sees how their words interact.
    """

    directed: bool

    @classmethod
    def requests_of(cls, task: Task) -> list[Request]:
        if task.options.get("encoding", "two") == "joint":
            return [Request((0, 1), "pair")]
        return [Request((0,), "text"), Request((1,), "text")]

    @property
    def joint(self) -> bool:
        return len(self.requests) == 1

    @property
    def features(self) -> int:
        if self.joint:
            return super().features
        return len(self.reads) * (1 + (4 if self.directed else 2) * self.width)

    def gather(self, found: Sequence[Mapping[Read, torch.Tensor]]) -> torch.Tensor:
        if self.joint:
            return super().gather(found)
        parts = []
        for read in self.reads:
            first, second = (normalize(each[read], dim=-1) for each in found)
            # The cosine on the scale of a whole vector, so that the penalty weighs as little on it alone
            # as on all the coordinates of which it is the sum.
            cosine = (first * second).sum(-1, keepdim=True) * self.width**0.5
            parts += [cosine, (first - second).abs() * self.width**0.5, first * second * self.width]
            if self.directed:
                parts += [first * self.width**0.5, second * self.width**0.5]
        return torch.cat(parts, dim=-1)


class PairLabelHead(_PairHead, ClassifyHead):
    """A label for two texts (entailment, same or not)."""

    kind = "pair"
    directed = True


class PairScoreHead(_PairHead, RegressHead):
    """A number for two texts (similarity)."""

    kind = "similarity"
    directed = False
