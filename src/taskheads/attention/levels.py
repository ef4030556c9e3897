"""What tasks score with a share of the attention heads, before anything is cut or solved anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskheads.attention.changed import Changed
from taskheads.attention.changing import Heads, scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scores import HeadScores
from taskheads.attention.smaller import needed_least
from taskheads.backbone.backbone import Backbone
from taskheads.heads import Head
from taskheads.model.evaluation import Score, decided, score
from taskheads.model.features import Progress, features_of
from taskheads.model.model import Model
from taskheads.tasks.task import Examples

# Below a third of them little is left to be chosen from.
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)


@dataclass(frozen=True)
class Level:
    """A share `keep` of all attention heads, how many are left, and the score of each task with those."""

    keep: float
    left: int
    scores: dict[str, Score]


def levels(
    model: Model,
    heads: AttentionHeads,
    importance: HeadScores,
    rows: Mapping[str, Examples],
    shares: Sequence[float] = SHARES,
    progress: Progress | None = None,
) -> list[Level]:
    """The scores of the model's tasks on these rows at each share, with 95 % intervals over rows.

    The attention heads that `smaller` would cut are silent, a gate of 0 on each, and the task heads are as
    they are: a pass over the rows for each share. `smaller` gives the same scores on the same rows until
    `refit` solves its task heads anew. Where the rows are those that the importance was measured on, the
    order of the attention heads has seen them.
    """
    found = []
    for done, keep in enumerate(shares):
        if progress is not None:
            progress("shares of the attention heads", done, len(shares))
        gone = needed_least(heads, importance, keep)
        scores = scores_on(_silenced(heads, gone), model.heads, rows, model.card["seed"])
        found.append(Level(keep, sum(heads.counts) - len(gone), scores))
    if progress is not None:
        progress("shares of the attention heads", len(shares), len(shares))
    return found


def scores_on(
    backbone: Backbone, task_heads: Mapping[str, Head], rows: Mapping[str, Examples], seed: int = 0
) -> dict[str, Score]:
    """The score of each task that has rows, by its own head on this backbone; without a baseline."""
    asked = {name: task_heads[name] for name in rows}
    features = features_of(backbone, asked, rows)
    return {
        name: score(head, rows[name], decided(head, rows[name], features)[1], None, seed)
        for name, head in asked.items()
    }


def _silenced(heads: AttentionHeads, gone: Heads) -> Backbone:
    changes = scaled(gone, 0.0)
    return Changed(heads.backbone, lambda batch, past: changes)
