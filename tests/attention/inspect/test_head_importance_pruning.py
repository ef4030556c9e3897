"""Head importance is the gradient of a gate, and what is pruned first changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskheads.attention.changing import scaled, site_of
from taskheads.attention.estimating import attributed, slopes
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.head_importance_pruning import head_importance, left_alone, pruning_steps
from taskheads.attention.measures import Measure, log_probability
from taskheads.attention.planted import plant, prompts
from taskheads.attention.pruning import pruned
from taskheads.attention.scanning import effects
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import pool
from tests.attention.test_effects import readout
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close


@pytest.mark.method("head_importance_pruning")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_it_is_the_gradient_of_a_gate_at_one(architecture: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    rows = batch()
    gates = torch.ones(heads.shape, requires_grad=True)
    output = heads.backbone.run(rows, changes=scaled(heads.which(), gates))["output"]
    (by_gate,) = torch.autograd.grad(readout(pool(output, rows, "last")).sum(), gates)
    close(-attributed(heads, rows, readout).sum(0), by_gate)
    at = slopes(heads, rows, readout)
    for layer in range(heads.n_layers):
        product = (at.values[site_of(layer)] * at.gradients[site_of(layer)]).sum((0, 2))
        close(product, by_gate[layer])
    found = head_importance(heads, [rows], lambda _: readout)
    raw = attributed(heads, rows, readout).abs().mean(0)
    close(found.values, raw / raw.norm(dim=1, keepdim=True))


@pytest.mark.method("head_importance_pruning")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
@torch.no_grad()
def test_a_head_that_writes_nothing_goes_first_and_is_not_missed(architecture: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    # The group that shares its keys in Llama.
    heads.output_weight(1)[2:].zero_()
    found = head_importance(heads, [batch()], lambda _: readout)
    assert (found.values == 0).nonzero().tolist() == [[1, 2], [1, 3]]
    first = pruning_steps(found, step=1 / 6)[1]
    assert first == ((1, 2), (1, 3))
    close(pruned(heads, first).run(batch())["output"], heads.backbone.run(batch())["output"])
    close(
        pruned(heads, "0.0-1 2.*").run(batch())["output"],
        heads.backbone.run(batch(), changes=scaled(heads.which("0.0-1 2.*"), 0))["output"],
    )


@pytest.mark.method("head_importance_pruning")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_the_planted_heads_are_the_last_to_go(architecture: str) -> None:
    planted = plant(architecture, ["retrieval"])  # type: ignore[arg-type]
    heads, asked = AttentionHeads(planted.backbone), prompts("retrieval", 8)

    def loss(some: RaggedBatch) -> Measure:
        chances = log_probability(planted.head, asked.answers[some.rows])
        return lambda vectors: -chances(vectors)

    # In two batches, each with its own answers.
    batches = [RaggedBatch(asked.rows[:3], [0, 1, 2]), RaggedBatch(asked.rows[3:], list(range(3, 8)))]
    found = head_importance(heads, batches, loss)
    levels = pruning_steps(found)
    assert [len(level) for level in levels] == [0, 2, 5, 7, 10, 12, 14, 17, 19, 22, 24]
    assert {*planted.heads.values()} == {*levels[-1]} - {*levels[-2]}
    assert found.manifest["n"] == 8
    whole = torch.cat([planted.head(_last(planted.backbone, some)) for some in batches])
    gated = scaled(levels[-2], 0)
    after = torch.cat([planted.head(_last(planted.backbone, some, gated)) for some in batches])
    assert np.array_equal(after.argmax(1).numpy(), asked.answers)
    assert (after - whole).abs().max() < 0.1


def test_all_heads_but_one_of_a_layer() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    found = left_alone(heads, batch(), readout)
    quiet = scaled([(1, 0), (1, 1), (1, 3)], 0)
    outputs = [heads.backbone.run(batch(), changes=changes)["output"] for changes in (quiet, None)]
    after, before = (readout(pool(output, batch(), "last")) for output in outputs)
    close(found[:, 1, 2], after - before)
    assert not torch.equal(found, effects(heads, batch(), readout))


@torch.no_grad()
def _last(backbone: Backbone, some: RaggedBatch, changes: Changes | None = None) -> torch.Tensor:
    return pool(backbone.run(some, changes=changes)["output"], some, "last")
