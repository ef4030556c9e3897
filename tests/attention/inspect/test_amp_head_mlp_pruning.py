"""What writes nothing is pruned first, and the smaller model is the masked one."""

from __future__ import annotations

import pytest
import torch

from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.amp_head_mlp_pruning import Amp
from taskheads.attention.neurons import silent
from taskheads.attention.planted import plant, prompts
from taskheads.attention.pruning import pruned
from taskheads.backbone.hearing import Heard
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.composing import then
from taskheads.edits.maps import weight_of
from taskheads.errors import ConfigError
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close


@pytest.mark.method("amp_head_mlp_pruning")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
@torch.no_grad()
def test_what_writes_nothing_has_nothing_goes_first_and_is_not_missed(architecture: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    # Under grouped queries, a group; elsewhere the one alone would do, too.
    dead_heads = [(0, 2), (0, 3), (1, 0), (1, 1), (2, 2), (2, 3)]
    dead_neurons = {layer: [layer, layer + 7] for layer in range(3)}
    for layer, maps in enumerate(heads.backbone.layout.maps):
        for head in [head for of, head in dead_heads if of == layer]:
            heads.output_weight(layer)[head] = 0
        for name in maps.mlp[:-1]:
            weight_of(heads.backbone, name)[dead_neurons[layer]] = 0
            bias = heads.backbone.model.get_submodule(name).bias
            if bias is not None:
                bias[dead_neurons[layer]] = 0
    found = Amp.measured(heads, [batch()])
    for layer in range(3):
        assert found.neurons[layer][dead_neurons[layer]].tolist() == [0, 0]
    assert (found.scores.values == 0).nonzero().tolist() == [[*head] for head in dead_heads]
    assert found.lowest(0.5)[0] == tuple(dead_heads)
    # 2 of 48 neurons, and no head at all.
    assert found.lowest(0.05) == ((), dead_neurons)
    close(found.pruned(0.05).run(batch())["output"], heads.backbone.run(batch())["output"])
    close(pruned(heads, dead_heads).run(batch())["output"], heads.backbone.run(batch())["output"])


@pytest.mark.method("amp_head_mlp_pruning")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
@torch.no_grad()
def test_scores_are_what_is_written_and_the_sliced_model_is_the_masked_one(architecture: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    found = Amp.measured(heads, [batch(), batch()])
    names = [maps.attention_output for maps in heads.backbone.layout.maps]
    heard = Heard(
        [name for maps in heads.backbone.layout.maps for name in (maps.attention_output, maps.mlp[-1])]
    )
    z = heads.backbone.run(batch(), ["layers.1.attention.heads", "output"], heard.changes)
    parts = heads.contributions(1, z["layers.1.attention.heads"])
    close(parts.sum(1) + heads.output_bias(1), heard.outputs[names[1]][0])
    close(found.scores.values[1], parts.abs().sum(2).mean(0))
    close(found.neurons[1], heard.inputs[heads.backbone.layout.maps[1].mlp[-1]][0].abs().mean(0))
    gone = found.lowest(0.5)
    assert [len(gone[0]), *map(len, gone[1].values())] == [6, 24, 24, 24]
    smaller = found.pruned(0.5)
    close(
        smaller.run(batch())["output"],
        heads.backbone.run(batch(), changes=then(scaled(gone[0], 0), silent(gone[1])))["output"],
    )


@pytest.mark.method("amp_head_mlp_pruning")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_the_planted_heads_are_those_that_write(architecture: str) -> None:
    jobs = ["copy" if architecture == "bert" else "induction", "memory"]
    planted = plant(architecture, jobs, noise=0)  # type: ignore[arg-type]
    asked = [row for job in jobs for row in prompts(job, 6).rows]
    found = Amp.measured(AttentionHeads(planted.backbone), [RaggedBatch(asked)])
    assert set(found.scores.above(1e-5)) == set(planted.heads.values())
    empty = plant(architecture, [], noise=0)  # type: ignore[arg-type]
    assert not Amp.measured(AttentionHeads(empty.backbone), [RaggedBatch(asked)]).scores.above(1e-5)


def test_bad_input() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    with pytest.raises(ConfigError, match="there is none"):
        Amp.measured(heads, [])
    with pytest.raises(ConfigError, match="a share of 1"):
        Amp.measured(heads, [batch()]).lowest(1.0)
