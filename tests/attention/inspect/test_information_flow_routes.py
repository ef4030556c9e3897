"""Terms sum to what they make; and the one path that an answer travels is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from taskheads.attention.changing import site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.information_flow_routes import (
    attention_terms,
    importances,
    information_flow_routes,
)
from taskheads.attention.measures import averaged
from taskheads.attention.planted import plant, prompts
from taskheads.attention.streams import streams
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import BackboneError
from tests.attention.inspect.relay import CARRIER, RELAY, relay, rows
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close


@pytest.mark.method("information_flow_routes")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_terms_sum_to_the_stream_and_importances_to_1(architecture: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    run = streams(heads, batch(), [site_of(1, "pattern"), site_of(1, "value")])
    for token in range(len(batch().ids)):
        terms = attention_terms(run, batch(), 1, token)
        total = run.between(1)[token]
        close(terms.sum((0, 1)) + run.before[1][token] + heads.output_bias(1), total)
        whole = torch.cat([terms.flatten(0, 1), run.before[1][[token]], heads.output_bias(1)[None]])
        close(importances(whole, total).sum(), torch.ones(()))


@pytest.mark.method("information_flow_routes")
def test_importance_of_one_term_alone_and_of_one_that_leads_away() -> None:
    y = torch.tensor([1.0, -2.0, 0.5])
    assert importances(torch.stack([y, 0 * y]), y).tolist() == [1, 0]
    # Taken away, the second one leaves more than there was.
    assert importances(torch.stack([1.5 * y, -0.5 * y]), y).tolist() == [1, 0]
    assert importances(torch.zeros(2, 3), 0 * y).tolist() == [0, 0]


@pytest.mark.method("information_flow_routes")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_one_path_of_the_answer_is_the_route(architecture: Any) -> None:
    planted, asked = relay(architecture, loud=50.0, louder=20.0), rows()
    found = information_flow_routes(AttentionHeads(planted.backbone), RaggedBatch(asked.rows), threshold=0.25)
    for row, each in enumerate(asked.rows):
        last = len(each) - 1
        path = [
            (2, "around mlp", -1, last, last),
            (2, "around attention", -1, last, last),
            (1, "around mlp", -1, last, last),
            (1, "attention", RELAY[1], last - 1, last),
            (0, "around mlp", -1, last - 1, last - 1),
            (0, "attention", CARRIER[1], last - 3, last - 1),
        ]
        assert [tuple(edge[1:6]) for edge in found.edges if edge.row == row] == path
    assert found.of_heads().nonzero().unique(dim=0)[:, 1:].unique(dim=0).tolist() == [[0, 1], [1, 2]]


@pytest.mark.method("information_flow_routes")
def test_a_threshold_of_0_keeps_the_whole_graph() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    edges = information_flow_routes(heads, batch(), threshold=0.0).edges
    assert len(set(edges)) == len(edges)
    for row, length in enumerate(batch().lengths):
        # In the last layer one token is reached, below it all: two ways through or around the feed-forward
        # block, one around attention, and one for each of 4 heads and position that it may look at.
        last = 2 + 1 + 4 * length
        every = sum(2 + 1 + 4 * (position + 1) for position in range(length))
        assert sum(edge.row == row for edge in edges) == last + 2 * every


@pytest.mark.method("information_flow_routes")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("job", ["retrieval", "induction"])
def test_the_planted_heads_are_on_the_route(architecture: Any, job: str) -> None:
    asked = prompts(job, 6)
    planted, bare = (AttentionHeads(plant(architecture, jobs).backbone) for jobs in ([job], []))
    found, none = (
        averaged(
            heads,
            heads.backbone.batches(asked.rows),
            lambda batch, heads=heads: information_flow_routes(heads, batch).of_heads(),
        )
        for heads in (planted, bare)
    )
    assert set(found.above(0.04)) == set(plant(architecture, [job]).heads.values())
    assert none.above(0.04) == ()


def test_a_stream_that_is_no_sum_is_refused() -> None:
    with pytest.raises(BackboneError, match="no plain sum"):
        information_flow_routes(AttentionHeads(backbone_of("bert")), batch())
