"""TaRot: rotations are exact, fold, and undo one that spoilt a head."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import transformers as hf

from taskheads.attention.asked import last_vectors
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure
from taskheads.attention.steer.tarot_head_rotation import HeadRotation, rotation
from taskheads.attention.which import AttentionHead
from taskheads.backbone.backbone import Backbone
from taskheads.errors import ConfigError
from tests.attention.test_heads import backbone_of
from tests.backbone.models import tiny
from tests.backbone.test_sites import batch, close


@pytest.mark.method("tarot_head_rotation")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
@torch.no_grad()
def test_outputs_turn_and_weights_do_the_same(architecture: str) -> None:
    backbone, rows = backbone_of(architecture), batch()
    heads = AttentionHeads(backbone)
    site, chosen = "layers.0.attention.heads", heads.which("0.1 0.2 1.3")
    draw = torch.Generator().manual_seed(0)
    turned = HeadRotation({head: torch.rand(4, generator=draw) * 6 - 3 for head in chosen})
    plain, found = (backbone.run(rows, [site, "output"], changes) for changes in (None, turned(rows)))
    before, after = plain[site], found[site]
    torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
    assert torch.equal(after[:, [0, 3]], before[:, [0, 3]])
    first = before[:, 1, :2]
    angle = turned.angles[AttentionHead(0, 1)][0]
    close(after[:, 1, 0], first[:, 0] * angle.cos() - first[:, 1] * angle.sin())
    close(after[:, 1, 1], first[:, 0] * angle.sin() + first[:, 1] * angle.cos())
    still = HeadRotation({head: torch.zeros(4) for head in chosen})
    assert torch.equal(backbone.run(rows, ["output"], still(rows))["output"], plain["output"])
    folded = copy.deepcopy(backbone.model)
    weights = turned.fold(heads)
    assert len(weights) == 2
    folded.load_state_dict(weights, strict=False)
    torch.testing.assert_close(
        Backbone(folded).run(rows, ["output"])["output"], found["output"], atol=1e-6, rtol=1e-5
    )


@pytest.mark.method("tarot_head_rotation")
def test_a_rotation_that_spoilt_a_head_is_undone() -> None:
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 40, "n_inner": 8}
    backbone = Backbone(tiny(hf.GPT2Config(vocab_size=97, **sizes)))
    heads, rows, head = AttentionHeads(backbone), batch(), AttentionHead(0, 1)
    with torch.inference_mode():
        wanted = 4 * last_vectors(backbone, rows)

    def likeness(vectors: torch.Tensor) -> torch.Tensor:
        """Less the cross-entropy to what the sound model says, of eight words."""
        return (wanted.softmax(-1) * (4 * vectors).log_softmax(-1)).sum(-1)

    measure: Measure = likeness
    spoilt = torch.tensor([0.9, -0.6])
    weights = HeadRotation({head: spoilt}).fold(heads)
    with torch.inference_mode():
        sound = float(measure(last_vectors(backbone, rows)).mean())
    backbone.model.load_state_dict(weights, strict=False)
    with torch.inference_mode():
        before = float(measure(last_vectors(backbone, rows)).mean())
    found = HeadRotation.fit(heads, {rows: measure}, which=[head], trials=24, limit=math.pi / 3)
    with torch.inference_mode():
        after = float(measure(last_vectors(backbone, rows, found(rows))).mean())
    assert sound - after < 0.01 * (sound - before)
    torch.testing.assert_close(found.angles[head], -spoilt, atol=0.1, rtol=0)


def test_no_angle_is_kept_that_is_worse_than_none() -> None:
    backbone, rows = backbone_of("gpt2"), batch()
    heads = AttentionHeads(backbone)
    with torch.inference_mode():
        wanted = last_vectors(backbone, rows)
    found = HeadRotation.fit(heads, {rows: lambda v: -(v - wanted).square().sum(-1)}, which="0.1", trials=3)
    assert not found.angles[AttentionHead(0, 1)].any()


def test_angles_make_an_orthogonal_matrix() -> None:
    turn = rotation(torch.tensor([0.3, -2.0, 1.0]))
    close(turn @ turn.T, torch.eye(6))
    close(rotation(torch.tensor([0.3])) @ rotation(torch.tensor([0.4])), rotation(torch.tensor([0.7])))


def test_heads_of_odd_width_are_refused() -> None:
    sizes = {"n_embd": 6, "n_layer": 1, "n_head": 2, "n_positions": 40, "n_inner": 8}
    heads = AttentionHeads(Backbone(tiny(hf.GPT2Config(vocab_size=97, **sizes))))
    with pytest.raises(ConfigError, match="width 3"):
        HeadRotation.fit(heads, {batch(): lambda v: v.sum(-1)})
