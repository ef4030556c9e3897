"""Shapley values: exact where they can be counted out, and the harmful head found."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.shapley_head_pruning import ShapleyHeads, Value
from taskheads.attention.planted import plant, prompts
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import pool
from taskheads.errors import ConfigError
from tests.attention.test_effects import readout
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch

EIGHT = "0.* 1.*"


def smooth(heads: AttentionHeads) -> Value:
    @torch.no_grad()
    def value(changes: Changes) -> float:
        output = heads.backbone.run(batch(), changes=changes)["output"]
        return float(readout(pool(output, batch(), "last")).double().mean())

    return value


def counted_out(heads: AttentionHeads, value: Value, which: str) -> torch.Tensor:
    """From all sets of these heads."""
    players = heads.which(which)
    count = len(players)
    scores = {
        gone: value(scaled([players[n] for n in gone], 0))
        for size in range(count + 1)
        for gone in itertools.combinations(range(count), size)
    }
    found = torch.full(heads.shape, torch.nan)
    for n, player in enumerate(players):
        found[player] = sum(
            (score - scores[tuple(sorted({*gone, n}))])
            * math.factorial(len(gone))
            * math.factorial(count - 1 - len(gone))
            for gone, score in scores.items()
            if n not in gone
        ) / math.factorial(count)
    return found


@pytest.mark.method("shapley_head_pruning")
@torch.no_grad()
def test_values_sum_to_the_whole_and_near_those_counted_out() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    heads.output_weight(1)[3].zero_()
    value = smooth(heads)
    exact = counted_out(heads, value, EIGHT)
    near = {}
    for orders in (4, 60):
        found = ShapleyHeads.estimated(heads, value, which=EIGHT, orders=orders, seed=1)
        assert float(found.scores.values.nansum()) == pytest.approx(found.whole - found.empty, abs=1e-5)
        assert found.scores.values[1, 3] == 0
        assert found.scores.values[2].isnan().all()
        near[orders] = (found.scores.values - exact).abs().nansum()
    assert near[60] < near[4] / 2
    off = (found.scores.values - exact).abs() / found.scores.error.clamp_min(1e-6)
    assert off[:2].max() < 4


@pytest.mark.method("shapley_head_pruning")
@torch.no_grad()
def test_two_heads_that_are_alike_have_the_same_value() -> None:
    heads = AttentionHeads(backbone_of("llama"))
    # They look at the same keys, and now ask and write alike.
    heads.output_weight(1)[1] = heads.output_weight(1)[0]
    name = heads.backbone.layout.maps[1].attention[0]
    queries = heads.backbone.model.get_submodule(name).weight.view(4, heads.width, -1)
    queries[1] = queries[0]
    exact = counted_out(heads, smooth(heads), "1.*")
    assert exact[1, 0] == pytest.approx(float(exact[1, 1]), abs=1e-6)
    found = ShapleyHeads.estimated(heads, smooth(heads), which="1.*", orders=30)
    first, second = found.scores.values[1, :2].tolist()
    assert first == pytest.approx(second, abs=4 * float(found.scores.error[1, 0]) + 1e-6)


@pytest.mark.method("shapley_head_pruning")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_a_harmful_head_is_found_and_is_better_gone(architecture: str) -> None:
    # Asked for what it knows by heart, the model is led astray by a context in half of the rows.
    planted = plant(architecture, ["context", "memory"])  # type: ignore[arg-type]
    heads, led, plain = AttentionHeads(planted.backbone), prompts("context", 4), prompts("memory", 4)
    rows = RaggedBatch(led.rows + plain.rows)
    right = torch.from_numpy(np.concatenate([led.others, plain.answers]))

    @torch.no_grad()
    def value(changes: Changes) -> float:
        output = planted.backbone.run(rows, changes=changes)["output"]
        chances = planted.head(pool(output, rows, "last")).softmax(-1)
        return float((chances.gather(1, right[:, None])[:, 0] > 0.1).float().mean())

    some = {"which": "0.1 2.0 2.3 2.4 2.6", "orders": 200}
    found = ShapleyHeads.estimated(heads, value, **some, settled=0.02, tolerance=1e-6)
    guilty, led_by, useful = (planted.heads[job] for job in ("context", "previous", "memory"))
    # In a third of all orders they come after both others: a sixth of the score is lost by each.
    assert found.scores.values[guilty] == pytest.approx(-1 / 6, abs=0.05)
    assert found.scores.top(1) == (useful,)
    assert set(found.interfering) == {guilty, led_by}
    assert found.scores.values[2, [0, 4]].tolist() == [0, 0]
    assert value(Changes()) == 0.5
    assert value(scaled(found.interfering, 0)) == 1


def test_who_is_settled_is_asked_no_more() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    # A bound is known after two orders, and here wide enough at once.
    found = ShapleyHeads.estimated(heads, smooth(heads), which="1.*", orders=9, settled=100)
    assert found.scores.manifest["orders"] == 2
    assert found.bounds[1].max() < 100
    assert not found.interfering


def test_nobody_is_asked_about() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    with pytest.raises(ConfigError, match="no attention head"):
        ShapleyHeads.estimated(heads, smooth(heads), which="")
