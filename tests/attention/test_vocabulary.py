"""What heads make of tokens by their weights is what they make of them in a pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from taskheads.attention.factored import Factored
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.vocabulary import ahead, lone, reading_norm, token_map, unembedding
from taskheads.backbone.hearing import Heard
from taskheads.backbone.ragged import Encoded, RaggedBatch
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close

ARCHITECTURES = ["bert", "gpt2", "llama", "gpt_neox", "t5"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_norms_and_maps_are_those_of_a_pass(architecture: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    tokens = [5, 17, 3]
    rows = RaggedBatch([Encoded(np.array([token])) for token in tokens])
    language_head = nn.Linear(32, 11, bias=False)
    weight = unembedding(heads, language_head)
    name = heads.backbone.layout.maps[2].attention[0]
    heard = Heard([name])
    sites = ["layers.1.output", "layers.2.attention.heads", "output"]
    found = heads.backbone.run(rows, sites, heard.changes)
    close(reading_norm(heads, 2)(found[sites[0]]), heard.inputs[name][0])
    # A token alone looks at itself: what comes out is its value.
    bias = heads.value(2)[1][[heads.key_head(2, head) for head in range(4)]]
    written = heads.contributions(2, found[sites[1]] - bias)
    mapped = token_map(heads, 2, found[sites[0]], weight)
    close(mapped.dense(), (written @ weight.T).transpose(0, 1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_lone_stream_has_no_attention_in_it(architecture: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    plain = heads.backbone.run(RaggedBatch([Encoded(np.array([7]))]), ["layers.0.output"])["layers.0.output"]
    assert not torch.allclose(lone(heads, [7]), plain, atol=1e-4)
    heads.output_weight(0).zero_()
    quiet = heads.backbone.run(RaggedBatch([Encoded(np.array([7]))]), ["layers.0.output"])["layers.0.output"]
    close(lone(heads, [7]), quiet)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_the_unembedding_orders_tokens_as_the_language_head_behind_the_norm(architecture: str) -> None:
    heads, language_head = AttentionHeads(backbone_of(architecture)), nn.Linear(32, 11, bias=False)
    found = heads.backbone.run(batch(), ["layers.2.output", "output"])
    mine = found["layers.2.output"] @ unembedding(heads, language_head).T
    theirs = language_head(found["output"])
    bias = (
        language_head(getattr(heads.backbone.model, "ln_f", nn.Identity()).bias)
        if architecture == "gpt2"
        else 0
    )
    # But for the size of each stream.
    torch.testing.assert_close(
        nn.functional.normalize(mine), nn.functional.normalize(theirs - bias), atol=1e-4, rtol=1e-4
    )


def test_how_many_are_ahead() -> None:
    # One head, whose rows are 3 2 2 1 and nothing.
    mapped = Factored(torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[3.0, 2.0, 2.0, 1.0]]]))
    assert ahead(mapped, torch.tensor([0, 0])).tolist() == [[0, 3]]
    assert ahead(mapped, torch.tensor([1, 2])).tolist() == [[2, 3]]
