"""Relations planted in a head's parameters are read off them."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.maps_head_functionality import relation_scores, salient, suppression_scores
from taskheads.attention.planted import plant, prompts
from taskheads.attention.planted.models import Architecture
from taskheads.attention.planted.wiring import FACTS, ORDINALS
from taskheads.attention.scanning import effects
from taskheads.attention.vocabulary import lone, token_map, unembedding
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError

ARCHITECTURES = get_args(Architecture)
SUCCESSORS = [(token, token + 1) for token in ORDINALS[:-1]]
RELATIONS = {"successor": SUCCESSORS, "fact": list(FACTS.items())}
PLANTED = {"successor": "successor", "fact": "memory"}


@pytest.mark.method("maps_head_functionality")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_planted_relation_is_found_and_no_other(architecture: Architecture) -> None:
    planted = plant(architecture, ["successor", "memory", "copy"])
    heads = AttentionHeads(planted.backbone)
    found = relation_scores(heads, planted.head, RELATIONS, k=1)
    for relation, job in PLANTED.items():
        scores = found.of_task(relation)
        assert scores.above(0.6) == (planted.heads[job],)
        assert scores.values[planted.heads[job]] == 1
    # Chance: k tokens of 30.
    others = torch.ones(heads.shape, dtype=torch.bool)
    for place in planted.heads.values():
        others[place] = False
    assert found.values[:, others].mean() < 0.15
    empty = plant(architecture, [])
    assert not relation_scores(AttentionHeads(empty.backbone), empty.head, RELATIONS, k=1).above(0.6)


@pytest.mark.method("maps_head_functionality")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_the_negative_of_a_head_suppresses(architecture: Architecture) -> None:
    planted = plant(architecture, ["successor"])
    layer, head = planted.heads["successor"]
    # A view of the weight itself.
    AttentionHeads(planted.backbone).output_weight(layer)[head].neg_()
    heads = AttentionHeads(planted.backbone)
    found = suppression_scores(heads, planted.head, RELATIONS, k=1).of_task("successor")
    assert found.values[layer, head] == 1
    assert relation_scores(heads, planted.head, RELATIONS, k=1).of_task("successor").values[layer, head] == 0


@pytest.mark.method("maps_head_functionality")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_the_map_says_what_the_head_does_to_the_logits_in_a_pass(architecture: Architecture) -> None:
    planted = plant(architecture, ["successor"])
    layer, head = planted.heads["successor"]
    heads, asked = AttentionHeads(planted.backbone), prompts("successor", 12)
    sources = [int(row.ids[-1]) for row in asked.rows]
    mapped = token_map(heads, layer, lone(heads, sources), unembedding(heads, planted.head))
    static = (mapped.left[head] @ mapped.right[head]).flatten()
    changes = [
        -effects(
            heads,
            RaggedBatch(asked.rows),
            lambda vectors, token=token: vectors @ planted.head.weight[token],
            which=[(layer, head)],
        )[:, layer, head]
        for token in range(30)
    ]
    assert np.corrcoef(static, torch.stack(changes, 1).flatten())[0, 1] > 0.99


def test_the_sources_that_a_head_is_for() -> None:
    planted = plant("llama", ["memory"])
    heads: Any = AttentionHeads(planted.backbone)
    found = salient(heads, planted.head, planted.heads["memory"], most=len(FACTS), k=1)
    assert {each.source: each.targets[0] for each in found} == FACTS
    assert len(salient(heads, planted.head, planted.heads["memory"], sources=[21, 3], k=2)) == 2


def test_a_relation_without_a_pair() -> None:
    planted = plant("gpt2", ["memory"])
    with pytest.raises(ConfigError, match="'capital' has no pair"):
        relation_scores(AttentionHeads(planted.backbone), planted.head, {"capital": []})
