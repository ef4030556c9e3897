"""Retrieval heads: a hand-wired one scores 1, and a trained model cannot recall without its own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.retrieval_heads import Needle, retrieval_scores
from taskheads.attention.planted import plant, prompts
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import ConfigError
from tests.attention.trained import TOKENS, repeats


def planted_needles(count: int) -> list[Needle]:
    asked = prompts("retrieval", count)
    return [Needle(row, int(at), int(at) + 1) for row, at in zip(asked.rows, asked.at, strict=True)]


@pytest.mark.method("retrieval_heads")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_planted_head_scores_one_and_a_local_one_nothing(architecture: str) -> None:
    planted = plant(architecture, ["retrieval", "memory"])  # type: ignore[arg-type]
    heads, needles = AttentionHeads(planted.backbone), planted_needles(10)
    found = retrieval_scores(heads, planted.head, needles, at_once=4)
    assert found.above(0.5) == (planted.heads["retrieval"],)
    assert found.values[planted.heads["retrieval"]] == 1
    assert found.values[planted.heads["previous"]] == 0
    assert found.manifest["n"] == 10
    empty = plant(architecture, [])  # type: ignore[arg-type]
    assert not retrieval_scores(AttentionHeads(empty.backbone), empty.head, needles).above(0.5)


@pytest.mark.method("retrieval_heads")
def test_a_trained_model_recalls_by_its_retrieval_heads() -> None:
    made = repeats(2)
    draw = np.random.default_rng(0)
    keys = [draw.permutation(TOKENS)[:14] for _ in range(48)]
    asked = [int(at) for at in draw.integers(1, 12, 48)]
    needles = [
        Needle(Encoded(np.append(some, some[at]).astype(np.int64)), at + 1, at + 2)
        for some, at in zip(keys, asked, strict=True)
    ]
    rows = RaggedBatch([needle.row for needle in needles])
    answers = torch.tensor([int(some[at + 1]) for some, at in zip(keys, asked, strict=True)])

    @torch.no_grad()
    def recall(silent: tuple = ()) -> float:
        output = made.heads.backbone.run(rows, changes=scaled(silent, 0))["output"]
        best = made.head(output[rows.starts + rows.counts - 1]).argmax(1)
        return float((best == answers).float().mean())

    scores = retrieval_scores(made.heads, made.head, needles)
    found = scores.above(0.5)
    assert {layer for layer, _ in found} == {1}
    assert recall() > 0.9
    # Chance is one of the 14 tokens that are there.
    assert recall(found) < 0.2
    # As many others: but for the previous-token head, which they stand on.
    stood_on = min(made.heads.which("0.*"), key=lambda head: recall((head,)))
    others = set(made.heads.which()) - {*found, stood_on}
    sets = [*itertools.combinations(sorted(others), len(found))]
    assert np.mean([recall(some) for some in sets]) > recall() - 0.05


def test_a_longer_needle_is_copied_token_by_token() -> None:
    made = repeats(2)
    row = np.array([3, 9, 4, 11, 6, 15, 8, 1, 20, 13, 2, 7, 4])
    needles = [Needle(Encoded(row), 3, 6), Needle(Encoded(row), 3, 9)]
    scores = retrieval_scores(made.heads, made.head, needles, most=3)
    # Three tokens are said: all of the one needle, half of the other.
    assert scores.values.max() == pytest.approx(0.75)
    assert retrieval_scores(made.heads, made.head, needles).values.max() == 1


def test_needles_in_a_context() -> None:
    found = [Needle.hidden([7, 8], [1, 2, 3, 4], [9], depth) for depth in (0, 0.5, 1)]
    assert [each.row.ids.tolist() for each in found] == [
        [7, 8, 1, 2, 3, 4, 9],
        [1, 2, 7, 8, 3, 4, 9],
        [1, 2, 3, 4, 7, 8, 9],
    ]
    assert [(each.start, each.stop) for each in found] == [(0, 2), (2, 4), (4, 6)]
    for needle, depth in (([], 0.5), ([1], 1.5)):
        with pytest.raises(ConfigError, match=f"{len(needle)} tokens cannot be hidden at depth {depth}"):
            Needle.hidden(needle, [1], [2], depth)
    made = repeats(2)
    with pytest.raises(ConfigError, match="there is none"):
        retrieval_scores(made.heads, made.head, [])
