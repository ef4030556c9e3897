"""Scores with fewer attention heads are those of the model that is cut to them."""

from __future__ import annotations

import pytest
import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.levels import levels, scores_on
from taskheads.attention.smaller import needed_least, smaller
from taskheads.attention.usage import heads_of, importance
from taskheads.attention.which import by_layer
from taskheads.model.evaluation import Score
from taskheads.training.joint.rows import encoded_rows
from tests.attention.test_usage import labelled
from tests.small_models import tiny_model

TASKS = ("topic", "labels", "size", "stars", "names", "same", "like", "find")


def test_each_share_scores_as_the_model_that_is_cut_to_it() -> None:
    model = tiny_model(TASKS)
    heads, rows = heads_of(model), {name: labelled(name) for name in TASKS}
    found = importance(heads, model.heads, encoded_rows(model, rows))
    told: list[tuple[str, int, int]] = []
    shares = (1.0, 0.6, 0.25)
    mine = levels(model, heads, found, rows, shares, lambda *step: told.append(step))
    assert told == [("shares of the attention heads", done, 3) for done in range(4)]
    assert [each.left for each in mine] == [12, 7, 3]
    for level in mine:
        made = smaller(model, heads, found, level.keep)
        gone = by_layer(needed_least(heads, found, level.keep))
        emptied = sum(len(some) == 4 for some in gone.values())  # where a silent one stays
        assert sum(AttentionHeads(made.backbone).counts) == level.left + emptied
        close(level.scores, scores_on(made.backbone, made.heads, rows))
    close(mine[0].scores, scores_on(model.backbone, model.heads, rows))
    for name in ("size", "like"):  # whose errors are no counts of rows
        assert abs(mine[0].scores[name].others["mae"] - mine[2].scores[name].others["mae"]) > 1e-4


def close(some: dict[str, Score], others: dict[str, Score]) -> None:
    for one, other in zip(some.values(), others.values(), strict=True):
        assert (one.task, one.metric, one.rows) == (other.task, other.metric, other.rows)
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=1e-5)


def test_rows_of_some_tasks_are_enough() -> None:
    model = tiny_model(["topic", "size"])
    heads, rows = heads_of(model), {"size": labelled("size")}
    found = importance(heads, model.heads, encoded_rows(model, rows))
    before = model.backbone.model.state_dict()["encoder.layer.0.attention.self.query.weight"].clone()
    (level,) = levels(model, heads, found, rows, (0.5,))
    assert (list(level.scores), level.scores["size"].rows) == (["size"], 6)
    assert torch.equal(
        before, model.backbone.model.state_dict()["encoder.layer.0.attention.self.query.weight"]
    )
