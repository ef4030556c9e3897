"""One scaled head: the logit difference is affine in α, and the context wins the louder its head is."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from taskheads.attention.conflicts import Conflict, share
from taskheads.attention.direct import DirectLogits, through_norm
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.steer.memory_context_head_scaling import HeadScaling, attributed_difference
from taskheads.attention.which import AttentionHead
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.hearing import Heard
from taskheads.edits.composing import then
from tests.attention.steer.torn import torn
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close


@pytest.mark.method("memory_context_head_scaling")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_the_logit_difference_is_affine_in_alpha_with_the_attributed_slope(architecture: str) -> None:
    heads, rows = AttentionHeads(backbone_of(architecture)), batch()
    backbone = heads.backbone
    torch.manual_seed(0)
    conflict = Conflict(rows, [3, 4, 5, 6, 7], [8, 9, 10, 11, 12])
    language_head = nn.Linear(32, 97, bias=False)
    scores = attributed_difference(heads, language_head, [conflict])
    # The final norm's statistics and the last feed-forward block are those of the pass without a change.
    last, projection = rows.starts + rows.counts - 1, backbone.layout.maps[2].mlp[-1]
    heard = Heard([projection])
    stream = backbone.run(rows, ["layers.2.output", "output"], heard.changes)["layers.2.output"][last]
    frozen = Changes(maps={projection: lambda _given, _made: heard.outputs[projection][0]})
    weight = language_head.weight
    directions = (weight[conflict.context] - weight[conflict.memory])[:, None]
    read, constant = through_norm(DirectLogits(heads).norm, stream, directions)

    def difference(head: AttentionHead, alpha: float) -> torch.Tensor:
        changes = then(HeadScaling(head, alpha)(rows), frozen)
        h = backbone.run(rows, ["layers.2.output"], changes)["layers.2.output"][last]
        return ((h * read[:, 0]).sum(-1) + constant[:, 0]).mean()

    for head in heads.which("2.*"):
        slope = float(scores.values[head])
        assert abs(slope) > 1e-3
        base = difference(head, 1.0)
        for alpha in (-2.0, 0.0, 0.5, 3.0):
            expected = base + (alpha - 1) * slope
            torch.testing.assert_close(difference(head, alpha), expected, atol=1e-4, rtol=0)


@pytest.mark.method("memory_context_head_scaling")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_louder_the_context_head_the_more_rows_say_what_it_says(architecture: str) -> None:
    planted, heads, conflict = torn(architecture)
    scores = attributed_difference(heads, planted.head, [conflict])
    assert scores.top(1) == (planted.heads["context"],)
    assert scores.top(1, smallest=True) == (planted.heads["memory"],)
    head = scores.top(1)[0]
    rates = [
        share(planted.backbone, planted.head, conflict, "context", HeadScaling(head, alpha))
        for alpha in (0.0, 0.6, 1.0, 2.0, 3.0, 5.0)
    ]
    assert rates == sorted(set(rates))
    assert (rates[0], rates[-1]) == (0.0, 1.0)
    fitted = HeadScaling.fit(heads, planted.head, [conflict])
    assert (fitted.head, fitted.alpha) == (head, 5.0)
    quiet = HeadScaling.fit(heads, planted.head, [conflict], favour="memory")
    assert quiet.head == planted.heads["memory"]
    assert share(planted.backbone, planted.head, conflict, "memory", quiet) == 1
    assert share(planted.backbone, planted.head, conflict, "memory", replace(quiet, alpha=1.0)) < 1


@torch.no_grad()
def test_scaled_weights_do_the_same() -> None:
    backbone, rows = backbone_of("gpt2"), batch()
    heads, scaling = AttentionHeads(backbone), HeadScaling(AttentionHead(1, 2), -2.0)
    model = copy.deepcopy(backbone.model)
    model.load_state_dict(scaling.fold(heads), strict=False)
    close(Backbone(model).run(rows)["output"], backbone.run(rows, changes=scaling(rows))["output"])
