"""Every activation is its parts; and the heads that an answer is due to are found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.contextual_decomposition_transformers import (
    contextual_decomposition_transformers,
    decomposed,
)
from taskheads.attention.planted import Planted, Prompts, plant, prompts
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from tests.attention.inspect.relay import CARRIER, RELAY, relay, rows
from tests.attention.test_heads import backbone_of
from tests.backbone.models import tiny
from tests.backbone.test_sites import batch, close


def every_site(backbone: Backbone) -> list[str]:
    return [name for name in backbone.layout.names if not name.endswith(("scores", "pattern", "tokens"))]


def some_tokens() -> torch.Tensor:
    return torch.arange(len(batch().ids)) % 3 == 0


@pytest.mark.method("contextual_decomposition_transformers")
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "gpt_neox", "albert"])
def test_the_parts_sum_to_the_plain_activation_everywhere(architecture: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    sites = [name for name in every_site(heads.backbone) if not name.endswith(("query", "key"))]
    with torch.no_grad():
        plain = heads.backbone.run(batch(), sites)
    found = decomposed(heads, batch(), [some_tokens(), [(0, 1), (1, 3)], [(2, 0)]], sites)
    for site in sites:
        for beta, gamma in zip(found[site].beta, found[site].gamma, strict=True):
            close(beta + gamma, plain[site])
    assert found["layers.1.output"].beta[2].abs().max() < 1e-6
    assert found["output"].beta.abs().amax((1, 2)).min() > 1e-2


@pytest.mark.method("contextual_decomposition_transformers")
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_of_all_tokens_everything_is_due_to_them(architecture: str) -> None:
    backbone = backbone_of(architecture)
    backbone.model.double()
    heads = AttentionHeads(backbone)
    every = torch.ones(len(batch().ids), dtype=torch.bool)
    found = decomposed(heads, batch(), [every, ~every], every_site(heads.backbone))
    for parts in found.values():
        assert parts.gamma[0].abs().max() < 1e-6
        assert parts.beta[1].abs().max() < 1e-6


@pytest.mark.method("contextual_decomposition_transformers")
def test_in_a_linear_network_it_is_the_exact_contribution() -> None:
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 40, "n_inner": 48}
    model: Any = tiny(hf.GPT2Config(vocab_size=97, **sizes, activation_function="linear"))
    model.ln_f = nn.Identity()
    with torch.no_grad():
        for block in model.h:
            block.ln_1 = block.ln_2 = nn.Identity()
            block.attn.c_attn.weight[:, :64] = 0  # every pattern is even
            for module in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
                module.bias.zero_()
    heads = AttentionHeads(Backbone(model))
    source = some_tokens()
    found = decomposed(heads, batch(), [source], every_site(heads.backbone))
    with torch.no_grad():
        alone = heads.backbone.run(batch(), list(found), {"embeddings": lambda x: x * source[:, None]})
    for site, parts in found.items():
        close(parts.beta[0], alone[site] if site != "embeddings" else parts.beta[0])


def towards(planted: Planted, asked: Prompts) -> torch.Tensor:
    weight: Any = planted.head.weight
    return (weight[asked.answers] - weight[asked.others]).detach()


@pytest.mark.method("contextual_decomposition_transformers")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("job", ["memory", "retrieval"])
def test_the_planted_head_has_the_answer(architecture: Any, job: str) -> None:
    asked = prompts(job, 8)
    planted, bare = plant(architecture, [job]), plant(architecture, [])
    found, none = (
        contextual_decomposition_transformers(
            AttentionHeads(each.backbone), RaggedBatch(asked.rows), towards(each, asked)
        )
        for each in (planted, bare)
    )
    assert found.to_output.above(0.1) == found.circuit(0.1) == (planted.heads[job],)
    assert none.circuit(0.1) == ()


@pytest.mark.method("contextual_decomposition_transformers")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_from_the_answer_backwards_to_the_head_that_carried_it(architecture: Any) -> None:
    planted, asked = relay(architecture, noise=0.05), rows()
    heads = AttentionHeads(planted.backbone)
    found = contextual_decomposition_transformers(heads, RaggedBatch(asked.rows), towards(planted, asked))
    assert set(found.to_output.above(0.5)) == {CARRIER, RELAY}
    assert found.circuit(0.5) == (CARRIER, RELAY)
    assert found.between[*CARRIER, *RELAY] > 0.95
    assert found.between[:, :, *RELAY].nan_to_num().flatten().sort().values[-2] < 0.1
    assert found.between[1, 0, :2].isnan().all()
