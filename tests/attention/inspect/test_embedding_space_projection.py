"""Weights in token space do not depend on the basis of the residual stream."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as hf

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.embedding_space_projection import (
    EmbeddingSpace,
    carried,
    matched,
    top_pairs,
)
from taskheads.backbone.backbone import Backbone
from taskheads.edits.maps import weight_of
from taskheads.errors import BackboneError
from tests.attention.test_heads import backbone_of
from tests.backbone.models import LLAMAISH, tiny
from tests.backbone.test_sites import batch


@torch.no_grad()
def one_and_the_same_rotated() -> tuple[AttentionHeads, AttentionHeads, torch.Tensor]:
    """A Llama whose norms have no gain, the same in another basis of the residual stream, and that basis."""
    model: Any = tiny(hf.LlamaConfig(**LLAMAISH))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(1)
    torch.manual_seed(1)
    turn = torch.linalg.qr(torch.randn(32, 32))[0]
    other = copy.deepcopy(model)
    other.embed_tokens.weight.copy_(model.embed_tokens.weight @ turn)
    for layer in other.layers:
        at, mlp = layer.self_attn, layer.mlp
        for reading in (at.q_proj, at.k_proj, at.v_proj, mlp.gate_proj, mlp.up_proj):
            reading.weight.copy_(reading.weight @ turn)
        for writing in (at.o_proj, mlp.down_proj):
            writing.weight.copy_(turn.T @ writing.weight)
    return AttentionHeads(Backbone(model)), AttentionHeads(Backbone(other)), turn


@pytest.mark.method("embedding_space_projection")
def test_projections_are_the_same_in_any_basis() -> None:
    one, other, _ = one_and_the_same_rotated()
    mine, theirs = EmbeddingSpace(one), EmbeddingSpace(other)
    for layer in range(one.n_layers):
        pairs = [
            (mine.keys(layer), theirs.keys(layer)),
            (mine.values(layer), theirs.values(layer)),
            *((mine.ov(layer, h).dense(), theirs.ov(layer, h).dense()) for h in range(4)),
            *((mine.qk(layer, h).dense(), theirs.qk(layer, h).dense()) for h in range(4)),
        ]
        for first, second in pairs:
            torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)
        assert (one.ov(layer, 0).dense() - other.ov(layer, 0).dense()).abs().max() > 1e-3


@pytest.mark.method("embedding_space_projection")
def test_parameters_in_any_basis_and_order_are_matched() -> None:
    one, other, _ = one_and_the_same_rotated()
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    mine, theirs = EmbeddingSpace(one).keys(1), EmbeddingSpace(other).keys(1)[order]
    assert torch.equal(order[matched(mine, theirs)], torch.arange(48))


@pytest.mark.method("embedding_space_projection")
@torch.inference_mode()
def test_a_classifier_is_carried_to_the_other_model() -> None:
    one, other, turn = one_and_the_same_rotated()
    classifier = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    spaces = EmbeddingSpace(one), EmbeddingSpace(other)
    taken = carried(classifier, spaces[0].embedding, spaces[1].embedding)
    torch.testing.assert_close(taken, classifier @ turn, atol=1e-4, rtol=1e-4)
    logits = [
        heads.backbone.run(batch())["output"] @ weight.T
        for heads, weight in ((one, classifier), (other, taken))
    ]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


def test_the_largest_entries_are_those_of_the_whole_matrix() -> None:
    one, _, _ = one_and_the_same_rotated()
    matrix = EmbeddingSpace(one).ov(2, 3)
    whole = matrix.dense().flatten().topk(7)
    for at_once in (1024, 10):
        found = top_pairs(matrix, 7, rows_at_once=at_once)
        assert [row * 97 + column for row, column, _ in found] == whole.indices.tolist()
        assert [value for *_, value in found] == pytest.approx(whole.values.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("architecture", "first"), [("gpt2", "c_fc"), ("llama", "gate_proj"), ("bert", "dense")]
)
@torch.no_grad()
def test_a_neuron_for_a_token_looks_like_that_token(architecture: str, first: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    space, names = EmbeddingSpace(heads), heads.backbone.layout.maps[1].mlp
    assert names[0].endswith(first)
    weight_of(heads.backbone, names[0])[7] = space.embedding[5]
    weight_of(heads.backbone, names[-1])[:, 7] = space.embedding[9]
    torch.testing.assert_close(space.keys(1)[7], space.embedding @ space.embedding[5])
    torch.testing.assert_close(space.values(1)[7], space.embedding @ space.embedding[9])


def test_embeddings_of_another_width() -> None:
    with pytest.raises(BackboneError, match="no token embeddings as wide"):
        EmbeddingSpace(AttentionHeads(backbone_of("albert")))
