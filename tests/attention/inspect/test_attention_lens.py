"""Lenses: exact where the model is one head, never worse than the logit lens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.attention_lens import AttentionLens
from taskheads.attention.planted import plant, prompts
from taskheads.attention.where import At
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import ConfigError
from tests.backbone.models import tiny

VOCABULARY, HALF, WIDTH = 12, 16, 8


@torch.no_grad()
def one_head(constant: bool = False) -> tuple[AttentionHeads, nn.Linear]:
    """A model whose logits are an affine function of its head 0.2: no other head, no feed-forward block and
    no final norm; what the head writes, the language head reads, and what the embeddings hold it does not.
    With `constant`, 0.2 writes always the same, and head 0.1 whatever is said."""
    model = tiny(hf.GPT2Config(vocab_size=VOCABULARY, n_embd=2 * HALF, n_layer=1, n_head=4, n_positions=16))
    model.ln_f = nn.Identity()
    for table in (model.wte, model.wpe):
        table.weight[:, HALF:] = 0
    at, mlp = model.h[0].attn, model.h[0].mlp
    mlp.c_proj.weight.zero_(), mlp.c_proj.bias.zero_()
    output = at.c_proj.weight.view(4, WIDTH, -1)
    output.normal_(generator=torch.Generator().manual_seed(0))
    output[[0, 3] if constant else [0, 1, 3]] = 0
    at.c_attn.weight.normal_(generator=torch.Generator().manual_seed(2))
    if constant:
        at.c_attn.weight[:, 4 * HALF :].view(-1, 4, WIDTH)[:, 2] = 0
        at.c_attn.bias[4 * HALF :].view(4, WIDTH)[2] = 1
    language_head = nn.Linear(2 * HALF, VOCABULARY, bias=False)
    language_head.weight.normal_(generator=torch.Generator().manual_seed(1), std=0.3)
    language_head.weight[:, :HALF] = 0
    return AttentionHeads(Backbone(model)), language_head


def texts(count: int = 200) -> list[RaggedBatch]:
    draw = np.random.default_rng(0)
    rows = [Encoded(draw.integers(0, VOCABULARY, draw.integers(2, 12))) for _ in range(count)]
    return [RaggedBatch(rows[: count // 2]), RaggedBatch(rows[count // 2 :])]


def said(heads: AttentionHeads, language_head: nn.Linear, batch: RaggedBatch) -> torch.Tensor:
    output = heads.backbone.run(batch)["output"]
    return language_head(output[At([-1]).tokens(batch)]).softmax(-1)


@pytest.mark.method("attention_lens")
def test_the_lens_of_a_model_that_is_one_head_is_its_language_head() -> None:
    heads, language_head = one_head()
    lens = AttentionLens.fit(heads, language_head, texts(), (0, 2))
    assert lens.divergence < 1e-5
    # Along what the head writes, and but for what softmax does not see.
    along = torch.linalg.qr(heads.output_weight(0)[2].T)[0]
    mine, theirs = lens.weight @ along, language_head.weight @ along
    torch.testing.assert_close(mine - mine.mean(0), theirs - theirs.mean(0), atol=0.01, rtol=0.01)
    across = torch.randn(3, 2 * HALF)
    across -= across @ along @ along.T
    torch.testing.assert_close(across @ lens.weight.T, torch.zeros(3, VOCABULARY), atol=1e-4, rtol=0)
    batch = texts()[0]
    last = At([-1]).tokens(batch)
    z = heads.backbone.run(batch, ["layers.0.attention.heads"])["layers.0.attention.heads"][last]
    mine = lens(heads.contributions(0, z)[:, 2]).softmax(-1)
    torch.testing.assert_close(mine, said(heads, language_head, batch), atol=2e-3, rtol=0)


@pytest.mark.method("attention_lens")
@torch.no_grad()
def test_of_a_head_that_always_says_the_same_it_is_the_mean() -> None:
    heads, language_head = one_head(constant=True)
    chances = torch.cat([said(heads, language_head, batch) for batch in texts()])
    mean = chances.mean(0)
    wanted = float(
        (torch.special.xlogy(chances, chances) - torch.special.xlogy(chances, mean)).sum(-1).mean()
    )
    with torch.enable_grad():
        lens = AttentionLens.fit(heads, language_head, texts(), (0, 2))
    assert wanted > 0.01
    assert lens.divergence == pytest.approx(wanted, rel=1e-3)


@pytest.mark.method("attention_lens")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_it_is_no_worse_than_the_logit_lens_and_best_where_the_answer_is(architecture: str) -> None:
    planted = plant(architecture, ["successor"])  # type: ignore[arg-type]
    heads, layer = AttentionHeads(planted.backbone), planted.heads["successor"][0]
    rows = [RaggedBatch(prompts("successor", 40).rows)]
    fitted = [AttentionLens.fit(heads, planted.head, rows, (layer, head), steps=50) for head in range(8)]
    assert all(lens.divergence <= lens.logit_lens for lens in fitted)
    best = min(fitted, key=lambda lens: lens.divergence)
    assert best.head == planted.heads["successor"]
    assert best.divergence < 0.01
    ordinals = heads.contributions(
        layer, heads.backbone.run(rows[0], [f"layers.{layer}.attention.heads"]).popitem()[1]
    )[At([-1]).tokens(rows[0]), best.head[1]]
    assert best(ordinals).argmax(-1).tolist() == [
        int(row.ids[-1]) + 1 for row in prompts("successor", 40).rows
    ]


def test_without_a_row() -> None:
    heads, language_head = one_head()
    with pytest.raises(ConfigError, match="there is none"):
        AttentionLens.fit(heads, language_head, [], (0, 2))
