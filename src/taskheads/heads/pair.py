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
from taskheads.methods import method
from taskheads.tasks.task import Task


@method("infersent_pair", family="heads", paper="arXiv:1705.02364", applies_to=("pair",))
def pair_features(u: torch.Tensor, v: torch.Tensor, directed: bool) -> torch.Tensor:
    """Compare two texts by their separately computed vectors u, v [n, d], made unit length: |u - v| and
    u * v, for a relation with a direction also u and v themselves (InferSent, section 3.2), and their cosine.

    Returns [n, 1 + 2 d], or [n, 1 + 4 d] where `directed`. All columns are brought to a scale of about one.
    The cosine has that of a whole vector, so that a penalty weighs as little on it alone as on all the
    coordinates of which it is the sum.
    """
    u, v = normalize(u, dim=-1), normalize(v, dim=-1)
    d = u.shape[-1]
    cosine = (u * v).sum(-1, keepdim=True) * d**0.5
    parts = [cosine, (u - v).abs() * d**0.5, u * v * d]
    if directed:
        parts += [u * d**0.5, v * d**0.5]
    return torch.cat(parts, dim=-1)


class _PairHead(LinearHead):
    """Two texts. `encoding: two` (the default): `pair_features` of each read; each text is encoded once,
    however many pairs it stands in. `encoding: joint`: the reads of both texts as one row, which sees how
    their words interact.
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

    @property
    def plain(self) -> list[int]:
        """The cosines."""
        if self.joint:
            return []
        return list(range(0, self.features, self.features // len(self.reads)))

    def gather(self, found: Sequence[Mapping[Read, torch.Tensor]]) -> torch.Tensor:
        if self.joint:
            return super().gather(found)
        first, second = found
        return torch.cat(
            [pair_features(first[read], second[read], self.directed) for read in self.reads], dim=-1
        )


class PairLabelHead(_PairHead, ClassifyHead):
    """A label for two texts (entailment, same or not)."""

    kind = "pair"
    directed = True


class PairScoreHead(_PairHead, RegressHead):
    """A number for two texts (similarity)."""

    kind = "similarity"
    directed = False
