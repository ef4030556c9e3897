"""Successor heads: planted and trained ones are found, and count on from where they are told to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.successor_heads import ModFeatures, succession_scores
from taskheads.attention.planted import plant
from taskheads.attention.planted.wiring import LETTERS, ORDINALS
from taskheads.attention.vocabulary import lone, token_map, unembedding
from taskheads.errors import ConfigError
from tests.attention.trained import successors

# Each begins again: the first once more at the end.
ALPHABETS = [[*range(first, first + 10), first] for first in (0, 10, 20)]


@pytest.mark.method("successor_heads")
def test_a_trained_model_counts_by_one_head() -> None:
    made = successors()
    scores = succession_scores(made.heads, made.head, ALPHABETS)
    assert scores.above(0.9) == ((1, 0),)
    others = [float(scores.values[head]) for head in made.heads.which() if head != (1, 0)]
    assert sum(others) / len(others) < 0.25
    assert scores.manifest["n"] == 30


@pytest.mark.method("successor_heads")
@torch.no_grad()
def test_a_feature_moved_is_another_successor() -> None:
    made = successors()
    streams, places = lone(made.heads, range(30)), [token % 10 for token in range(30)]
    features = ModFeatures(streams, places)
    assert features.residues(streams).tolist() == places
    unembedded = unembedding(made.heads, made.head)[:30]
    hits = []
    for to in range(10):
        moved = features.moved(streams, places, [to] * 30)
        mapped = token_map(made.heads, 1, moved, unembedded)
        said = (mapped.left[0] @ mapped.right[0]).argmax(1)
        # Of its own alphabet.
        hits.append((said == torch.arange(30) // 10 * 10 + (to + 1) % 10).float().mean())
    assert torch.stack(hits).mean() > 0.8
    unmoved = features.moved(streams, places, places)
    torch.testing.assert_close(unmoved, streams, atol=1e-5, rtol=1e-5)


@pytest.mark.method("successor_heads")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_a_planted_head_is_found_and_no_other(architecture: Any) -> None:
    planted = plant(architecture, ["successor", "copy", "memory"])
    heads = AttentionHeads(planted.backbone)
    scores = succession_scores(heads, planted.head, [ORDINALS])
    assert scores.above(0.5) == (planted.heads["successor"],)
    assert scores.values[planted.heads["successor"]] == 1
    assert not succession_scores(heads, planted.head, [LETTERS]).above(0.5)
    empty = plant(architecture, [])
    assert not succession_scores(AttentionHeads(empty.backbone), empty.head, [ORDINALS]).above(0.5)


def test_a_set_without_a_successor() -> None:
    planted = plant("gpt2", [])
    with pytest.raises(ConfigError, match=r"\[3\] is no ordered set"):
        succession_scores(AttentionHeads(planted.backbone), planted.head, [[3]])
