"""Induction heads: planted ones are found, and so are those that a trained model comes to have."""

from __future__ import annotations

import math

import pytest
import torch

from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.induction_heads import (
    copying,
    in_context_score,
    prefix_matching,
    repeated,
    token_losses,
)
from taskheads.attention.planted import plant
from taskheads.attention.planted.wiring import LETTERS, OPENING
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from tests.attention.trained import PERIOD, TOKENS, repeats


@pytest.mark.method("induction_heads")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_planted_head_is_found_and_no_other(architecture: str) -> None:
    rows = repeated(LETTERS, 8, 6, opening=OPENING)
    planted = plant(architecture, ["induction", "copy", "memory"])  # type: ignore[arg-type]
    heads = AttentionHeads(planted.backbone)
    found = prefix_matching(heads, [RaggedBatch(rows[:2]), RaggedBatch(rows[2:])], 8)
    assert found.above(0.5) == (planted.heads["induction"],)
    assert found.values[planted.heads["induction"]] > 1 - 1e-5
    assert found.manifest["n"] == 6
    empty = AttentionHeads(plant(architecture, []).backbone)  # type: ignore[arg-type]
    assert not prefix_matching(empty, [RaggedBatch(rows)], 8).above(0.5)


@pytest.mark.method("induction_heads")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_heads_that_copy(architecture: str) -> None:
    jobs = ["copy", "memory"] if architecture == "bert" else ["copy", "induction", "memory"]
    planted = plant(architecture, jobs)  # type: ignore[arg-type]
    found = copying(AttentionHeads(planted.backbone), planted.head, LETTERS)
    copies = {planted.heads[job] for job in jobs if job != "memory"}
    assert set(found.above(0.5)) == copies
    assert min(float(found.values[head]) for head in copies) > 0.99
    empty = plant(architecture, [])  # type: ignore[arg-type]
    assert not copying(AttentionHeads(empty.backbone), empty.head, LETTERS).above(0.5)


@pytest.mark.method("induction_heads")
def test_two_layers_learn_it_one_does_not_and_they_come_with_learning_in_context() -> None:
    two, one = repeats(2), repeats(1, 150)
    rows = RaggedBatch(repeated(range(TOKENS), PERIOD, 16, seed=1))
    second, first = rows.positions > PERIOD, (rows.positions > 0) & (rows.positions < PERIOD)

    def losses(made, *silent) -> tuple[float, float]:
        lost = token_losses(made.heads, made.head, rows, scaled(silent, 0))
        return float(lost[first].mean()), float(lost[second].mean())

    found = prefix_matching(two.heads, [rows], PERIOD)
    induction = found.above(0.5)
    assert induction
    assert {layer for layer, _ in induction} == {1}
    assert losses(two)[1] < 0.3
    assert not prefix_matching(one.heads, [rows], PERIOD).above(0.5)
    assert losses(one)[1] > 1
    # Without them, a token is no better known than by guessing among all.
    assert losses(two, *induction)[1] > 0.9 * math.log(TOKENS)
    previous = max(two.heads.which("0.*"), key=lambda head: losses(two, head)[1])
    for other in set(two.heads.which()) - {*induction, previous}:
        assert losses(two, other)[1] < 1
    # Half of the way up and half of the way down fall into the same window of steps.
    risen, fallen = (
        next(seen["step"] for seen in two.log if seen[what] / two.log[-1][what] > 0.5)
        for what in ("score", "in_context")
    )
    assert abs(risen - fallen) <= 40
    assert 0.3 * two.log[-1]["step"] < risen


def test_the_score_of_learning_in_context() -> None:
    rows = RaggedBatch(repeated(range(9), 4, 2))
    assert in_context_score(torch.arange(16.0), rows, 2, 5) == 3
    made = repeats(1, 150)
    lost = token_losses(made.heads, made.head, rows)
    assert lost.isnan().nonzero()[:, 0].tolist() == [0, 8]
    logits = made.model(input_ids=rows.ids[None, 8:]).logits[0]
    torch.testing.assert_close(lost[11], -logits[2].log_softmax(0)[rows.ids[11]], atol=1e-4, rtol=1e-4)


def test_too_few_tokens_for_a_period() -> None:
    with pytest.raises(ConfigError, match="3 tokens are too few for a period of 4"):
        repeated(range(3), 4, 1)
