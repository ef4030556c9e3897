"""Heads taken out for good, kept, and read again; heads trained alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf

from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.planted import plant, prompts
from taskheads.attention.pruning import pruned, weakest
from taskheads.attention.scores import HeadScores
from taskheads.attention.training import training_only
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cutting import KEY, loaded
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import BackboneError, ConfigError
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close

# Under grouped queries (two heads a group) whole groups, or one of each.
GONE = {"llama": "0.0-1 1.1 1.2 2.*", "qwen3": "0.2-3 1.0 1.3"}
FAMILIES = ["bert", "roberta", "distilbert", "electra", "modernbert", "gpt2", "gpt_neox", "llama", "qwen3"]


@pytest.mark.parametrize("architecture", FAMILIES)
@torch.no_grad()
def test_pruned_is_silenced_and_smaller(architecture: str, tmp_path: Path) -> None:
    backbone = backbone_of(architecture)
    heads = AttentionHeads(backbone)
    gone = heads.which(GONE.get(architecture, "0.1 0.3 1.0 2.*"))
    before = {name: each.clone() for name, each in backbone.model.state_dict().items()}
    made = pruned(heads, gone)
    silenced = backbone.run(batch(), changes=scaled(gone, 0))["output"]
    close(made.run(batch())["output"], silenced)
    assert all(torch.equal(each, before[name]) for name, each in backbone.model.state_dict().items())
    sizes = [sum(each.numel() for each in b.model.parameters()) for b in (backbone, made)]
    assert sizes[1] < sizes[0]
    left = AttentionHeads(made)
    # Of the layer that lost all, one is left.
    counts = [max(1, 4 - sum(layer == n for layer, _ in gone)) for n in range(3)]
    assert list(left.counts) == counts
    made.save(tmp_path / "small")
    again = _loaded(tmp_path / "small")
    assert torch.equal(again.run(batch())["output"], made.run(batch())["output"])
    assert again.fingerprint == made.fingerprint


def _loaded(folder: Path) -> Backbone:
    """Without a tokenizer."""
    config = hf.AutoConfig.from_pretrained(folder)
    return Backbone(loaded(hf.AutoModel, str(folder), config)[0])


@torch.inference_mode()
def test_what_the_configuration_can_say_is_a_plain_model(tmp_path: Path) -> None:
    heads = AttentionHeads(backbone_of("llama"))
    made = pruned(heads, "0.0-1 1.2-3 2.0-1")
    assert not hasattr(made.model.config, KEY)
    made.save(tmp_path)
    plain = hf.AutoModel.from_pretrained(tmp_path)
    assert (plain.config.num_attention_heads, plain.config.num_key_value_heads) == (2, 1)
    for row, mine in zip(_rows(), made.run(batch())["output"].split(batch().lengths), strict=True):
        close(plain(input_ids=row)[0][0], mine)
    # GPT-2 cannot say it, even of equally many.
    assert hasattr(pruned(AttentionHeads(backbone_of("gpt2")), "*.0").model.config, KEY)


def _rows() -> list[torch.Tensor]:
    return [row[None] for row in batch().ids.split(batch().lengths)]


def test_pruning_what_nobody_needs_keeps_every_answer() -> None:
    planted = plant("gpt2", ["retrieval"])
    heads, asked = AttentionHeads(planted.backbone), prompts("retrieval", 6)
    rows = RaggedBatch(asked.rows)
    useful = torch.zeros(heads.shape)
    for layer, head in planted.heads.values():
        useful[layer, head] = 1
    gone = weakest(heads, HeadScores.of(useful), 0.25)
    assert len(gone) == 18
    made = pruned(heads, gone)
    with torch.inference_mode():
        output = made.run(rows)["output"][rows.starts + rows.counts - 1]
        assert planted.head(output).argmax(1).tolist() == asked.answers.tolist()


def test_the_weakest_go_in_whole_groups() -> None:
    heads = AttentionHeads(backbone_of("llama"))
    scores = torch.arange(12.0).view(3, 4)
    scores[0, 0] = 100
    assert weakest(heads, HeadScores.of(scores), 0.5) == heads.which("0.2-3 1.*")
    with pytest.raises(ConfigError, match="not 0"):
        weakest(heads, HeadScores.of(scores), 0)


def test_what_cannot_be_pruned() -> None:
    with pytest.raises(ConfigError, match="layer 0 would be left with 1, 2 attention heads"):
        pruned(AttentionHeads(backbone_of("llama")), "0.0")
    with pytest.raises(BackboneError, match="share their weights"):
        pruned(AttentionHeads(backbone_of("albert")), "0.0")
    lowered = Backbone(backbone_of("bert").model, precision="int8")
    with pytest.raises(BackboneError, match="float32"):
        pruned(AttentionHeads(lowered), "0.0")


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_only_the_chosen_heads_learn(architecture: str) -> None:
    backbone = backbone_of(architecture)
    heads = AttentionHeads(backbone)
    before = {name: each.detach().clone() for name, each in backbone.model.named_parameters()}
    whole = backbone.model.get_parameter(next(iter(before))).requires_grad
    with training_only(heads, "1.2") as parameters:
        optimiser = torch.optim.Adam(parameters, lr=0.1)
        for _ in range(2):
            optimiser.zero_grad()
            backbone.run(batch())["output"].square().sum().backward()
            optimiser.step()
    assert whole
    assert all(each.requires_grad for each in backbone.model.parameters())
    moved = {name: (each != before[name]).sum().item() for name, each in backbone.model.named_parameters()}
    # Three parts of 8 x 32, three biases of 8 where there are some, 32 x 8 of the output.
    biased = sum("bias" in name and count > 0 for name, count in moved.items()) > 0
    assert sum(moved.values()) == 4 * 8 * 32 + (24 if biased else 0)
    fresh = AttentionHeads(backbone)
    for layer in range(3):
        for head in range(4):
            same = torch.equal(fresh.output_weight(layer)[head], _weights(before, backbone, layer, head))
            assert same == ((layer, head) != (1, 2))


def _weights(before: dict, backbone: Backbone, layer: int, head: int) -> torch.Tensor:
    name = backbone.layout.maps[layer].attention_output
    weight = before[f"{name}.weight"]
    weight = weight if "c_proj" in name else weight.T
    return weight.unflatten(0, (4, 8))[head]
