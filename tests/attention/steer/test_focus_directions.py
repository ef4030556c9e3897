"""Focus directions: moved scores, and weight that goes from the sink to the context."""

from __future__ import annotations

import pytest
import torch

from taskheads.attention.changed import Changed
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.planted import prompts
from taskheads.attention.steer.focus_directions import FocusDirections, contextual
from taskheads.attention.where import At
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.generating import generate
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from tests.attention.steer.drowsy import drowsy
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close


def marked(rows: RaggedBatch, at: object) -> torch.Tensor:
    """The tokens at one position of each row, bool [N]."""
    return rows.positions == torch.as_tensor(at)[rows.row_of_token]


@pytest.mark.method("focus_directions")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_changed_scores_are_those_of_the_moved_queries_and_keys(architecture: str) -> None:
    heads, rows = AttentionHeads(backbone_of(architecture)), batch()
    backbone = heads.backbone
    found = FocusDirections.fit(heads, {rows: marked(rows, [2, 0, 4, 1, 0])}, "1.1 1.2", steps=3)
    parts = ["query", "key", "scores"]
    sites = {part: f"layers.1.attention.{part}" for part in parts}
    plain = backbone.run(rows, [*sites.values(), "output"])
    moved = backbone.run(rows, list(sites.values()), found.at(1.7)(rows))
    d_q, d_k = (1.7 * found.directions[sites[part]] for part in ("query", "key"))
    assert (d_q.norm(dim=1) > 0).tolist() == [False, True, True, False]
    asking, context = At([-1]).tokens(rows), rows.positions > 0
    for head in (1, 2):
        group = heads.key_head(1, head)
        query = plain[sites["query"]][:, head] + torch.where(asking[:, None], d_q[head], 0)
        key = plain[sites["key"]][:, group] + torch.where(context[:, None], d_k[group], 0)
        for token in range(len(rows.ids)):
            seen = (rows.row_of_token == rows.row_of_token[token]) & (rows.positions <= rows.positions[token])
            scores = moved[sites["scores"]][token, head]
            close(scores[~scores.isneginf()], key[seen] @ query[token] / heads.width**0.5)
    assert torch.equal(backbone.run(rows, ["output"], found.at(0.0)(rows))["output"], plain["output"])
    assert not torch.equal(backbone.run(rows, ["output"], found(rows))["output"], plain["output"])


@pytest.mark.method("focus_directions")
def test_weight_goes_from_the_sink_to_what_matters_and_answers_become_right() -> None:
    planted, heads, retrieval = drowsy()
    shown, asked = prompts("retrieval", 8, seed=1), prompts("retrieval", 24)
    train, rows = RaggedBatch(shown.rows), RaggedBatch(asked.rows)
    scores = contextual(heads, {train: marked(train, shown.at)})
    assert scores.top(1) == (retrieval,)
    focus = FocusDirections.fit(heads, {train: marked(train, shown.at)}, scores.top(1), steps=30)
    pattern = f"layers.{retrieval[0]}.attention.pattern"
    last = rows.starts + rows.counts - 1

    def right(backbone: Backbone) -> float:
        found = generate(backbone, planted.head, rows, most=1)
        return sum(row == [answer] for row, answer in zip(found, asked.answers, strict=True)) / len(rows)

    sinks, relevant, accuracy = [], [], []
    for alpha in (-0.4, -0.2, 0.0, 0.2, 0.4, 0.8):
        changed = Changed(planted.backbone, focus.at(alpha))
        with torch.inference_mode():
            weights = changed.run(rows, [pattern])[pattern][last, retrieval[1]]
        sinks.append(float(weights[:, 0].mean()))
        relevant.append(float(weights[range(len(rows)), asked.at].mean()))
        accuracy.append(right(changed))
    assert sinks == sorted(sinks, reverse=True)
    assert relevant == sorted(relevant)
    assert accuracy == sorted(accuracy)
    assert accuracy[0] < accuracy[2] < accuracy[-1] == 1
    # The same shift on a head that does not look at what matters.
    other = next(head for head in heads.which("2.*") if head != retrieval)
    elsewhere = FocusDirections(
        [other],
        [other],
        {site: each.roll(other.head - retrieval[1], 0) for site, each in focus.directions.items()},
    )
    assert right(Changed(planted.backbone, elsewhere)) == accuracy[2]


def test_a_row_without_anything_relevant_is_refused() -> None:
    heads, rows = AttentionHeads(backbone_of("gpt2")), batch()
    with pytest.raises(ConfigError, match="nothing of row 2 is marked"):
        FocusDirections.fit(heads, {rows: rows.row_of_token < 2}, "1.1")
