"""A direction by which one head speaks to another is found in the weights, and can be shut."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from taskheads.attention.asked import last_vectors
from taskheads.attention.changing import scaled, site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.talking_heads_channels import (
    component,
    shifted,
    talking_heads_channels,
    without,
)
from taskheads.attention.planted import plant, prompts
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.edits.composing import then
from tests.backbone.models import tiny
from tests.backbone.test_sites import batch, close

D, WIDTH = 128, 32
SENDER, RECEIVER = (0, 1), (1, 2)


@torch.no_grad()
def random_with_channel() -> tuple[AttentionHeads, torch.Tensor]:
    """Random weights, no norms, and a direction that the faintest component of the sender writes: the loudest
    that the receiver's query reads, and all that it reads of the sender."""
    sizes: dict[str, Any] = {"n_embd": D, "n_layer": 3, "n_head": 4, "n_positions": 40, "n_inner": 16}
    model: Any = tiny(hf.GPT2Config(vocab_size=97, **sizes)).double()
    for block in model.h:
        for norm in ("ln_1", "ln_2"):
            setattr(block, norm, nn.Identity())
        block.attn.c_attn.weight.normal_(std=D**-0.5)
        block.attn.c_proj.weight.normal_(std=D**-0.5)
        block.mlp.c_proj.weight.zero_()
        block.mlp.c_proj.bias.zero_()
    model.wte.weight.normal_()
    channel = nn.functional.normalize(torch.randn(D, dtype=torch.float64), dim=0)
    value = model.h[0].attn.c_attn.weight[:, 2 * D + SENDER[1] * WIDTH :][:, :WIDTH]
    output = model.h[0].attn.c_proj.weight[SENDER[1] * WIDTH :][:WIDTH]
    value.copy_(torch.linalg.qr(value)[0])
    output.sub_((output @ channel)[:, None] * channel)
    output[0] = 0.2 * channel
    spoken = torch.linalg.qr(output.T)[0]
    query, key = (model.h[1].attn.c_attn.weight[:, n * D + RECEIVER[1] * WIDTH :][:, :WIDTH] for n in (0, 1))
    for read in (query, key):
        read.sub_(spoken @ (spoken.T @ read))
    query[:, 0] = 4 * channel
    return AttentionHeads(Backbone(model)), channel


@pytest.mark.method("talking_heads_channels")
@torch.inference_mode()
def test_a_planted_channel_is_the_outlier_and_can_be_deleted() -> None:
    heads, channel = random_with_channel()
    found = talking_heads_channels(heads, "query")
    first, second = found.top(2)
    assert (first.sender, first.receiver) == (SENDER, RECEIVER)
    assert first.z > 5
    assert (second.sender, second.receiver) != (SENDER, RECEIVER)
    assert found.whole_z[*SENDER, *RECEIVER] < 5
    close(component(heads, SENDER, first.component).abs(), channel.abs())

    site = site_of(1, "scores")
    deleted, silent = without(heads, SENDER, [first.component]), scaled([SENDER], 0)

    def heard(*changes: Any) -> torch.Tensor:
        """What of the receiver's scores is the sender's doing."""
        found = [heads.backbone.run(batch(), [site], each)[site][:, RECEIVER[1]] for each in changes]
        return (found[0] - found[1]).nan_to_num().abs().max()

    assert heard(None, silent) > 1e-2
    assert heard(deleted, then(deleted, silent)) < 1e-6


@pytest.mark.method("talking_heads_channels")
@torch.inference_mode()
def test_components_sum_to_the_matrix_and_their_scores_to_the_whole() -> None:
    heads, _ = random_with_channel()
    ov, qk = heads.ov(*SENDER), heads.qk(*RECEIVER)
    u, values, v = ov.svd()
    parts = [value * torch.outer(u[:, n], v[:, n]) for n, value in enumerate(values)]
    close(torch.stack(parts).sum(0), ov.dense())
    found = talking_heads_channels(heads, "key")
    norm = torch.linalg.matrix_norm
    read = qk.dense().T
    for n in (0, 5):
        score = norm(parts[n] @ read) / norm(parts[n]) / norm(read)
        close(found.components[*SENDER, n, *RECEIVER].double(), score)
    close(found.whole[*SENDER, *RECEIVER].double(), norm(ov.dense() @ read) / norm(ov.dense()) / norm(read))
    assert found.whole.isnan()[1].sum() == 4 * 8
    assert found.whole.isnan()[2].all()


@pytest.mark.method("talking_heads_channels")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_the_planted_pair_talks_and_no_other(architecture: str) -> None:
    planted = plant(architecture, ["retrieval"])  # type: ignore[arg-type]
    heads = AttentionHeads(planted.backbone)
    pair = (planted.heads["previous"], planted.heads["retrieval"])
    readers = {pair} if architecture != "llama" else {pair, (pair[0], (2, 4))}
    assert talking_heads_channels(heads, "key").pairs() == readers
    assert talking_heads_channels(heads, "value").pairs() == set()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_in_a_random_model_nobody_talks(architecture: Any, part: Any) -> None:
    heads = AttentionHeads(plant(architecture, []).backbone)
    assert talking_heads_channels(heads, part).pairs() == set()


@torch.inference_mode()
def test_a_shift_along_a_channel_changes_what_is_attended() -> None:
    planted, asked = plant("gpt2", ["retrieval"]), prompts("retrieval", 1)
    heads, row = AttentionHeads(planted.backbone), asked.rows[0]
    layer, head = planted.heads["retrieval"]
    at = int(asked.at[0])
    other = next(n for n in (2, 4, 6) if n != at)
    # What the head for the previous token wrote beside the right value, moved to another one.
    before, there = (
        heads.contributions(0, planted.backbone.run(RaggedBatch([row]), [site_of(0)])[site_of(0)])[:, 1][n]
        for n in (at, other)
    )
    batch = RaggedBatch([row])
    here = [torch.arange(len(row)) == n for n in (at, other)]
    swapped = then(shifted(1, there - before, 1.0, here[0]), shifted(1, before - there, 1.0, here[1]))
    site = site_of(layer, "pattern")
    pattern = planted.backbone.run(batch, [site], swapped)[site]
    assert pattern[-1, head, other] > 0.99
    answer = planted.head(last_vectors(planted.backbone, batch, swapped)).argmax()
    assert answer == row.ids[other] != asked.answers[0]


def test_a_head_that_loses_all_its_components_says_nothing() -> None:
    heads = AttentionHeads(plant("gpt2", ["copy"]).backbone)
    rows = RaggedBatch([Encoded(np.array([0, 26, 27]))])
    gone = without(heads, (1, 5), list(range(WIDTH)))
    with torch.inference_mode():
        z = heads.backbone.run(rows, [site_of(1)], gone)[site_of(1)]
        assert heads.contributions(1, z)[:, 5].abs().max() < 1e-5
