"""Task heads: one file for each kind."""

from __future__ import annotations

from taskheads.heads.classify import ClassifyHead
from taskheads.heads.embed import EmbedHead
from taskheads.heads.head import Decisions, Head, Request
from taskheads.heads.linear import LinearHead
from taskheads.heads.multilabel import MultilabelHead
from taskheads.heads.ordinal import OrdinalHead
from taskheads.heads.pair import PairLabelHead, PairScoreHead
from taskheads.heads.regress import RegressHead
from taskheads.heads.tag import TagHead
from taskheads.tasks.task import Task

__all__ = ["Decisions", "EmbedHead", "Head", "LinearHead", "Request", "TagHead", "head_for"]

_HEADS: dict[str, type[Head]] = {
    head.kind: head
    for head in (
        ClassifyHead,
        MultilabelHead,
        RegressHead,
        OrdinalHead,
        TagHead,
        PairLabelHead,
        PairScoreHead,
        EmbedHead,
    )
}


def head_for(task: Task) -> type[Head]:
    """The class of head that answers a task."""
    return _HEADS["similarity" if task.kind == "pair" and not task.labels else task.kind]
