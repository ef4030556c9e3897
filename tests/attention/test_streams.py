"""The residual stream is the sum of its parts, and a norm's output that of its parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.norms import normed
from taskheads.attention.streams import streams
from taskheads.errors import BackboneError
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), LlamaRMSNorm(6), nn.Identity()])
@pytest.mark.parametrize("inference", [False, True])
def test_the_parts_of_a_norm_sum_to_it_and_are_linear(norm: nn.Module, inference: bool) -> None:
    torch.manual_seed(0)
    for parameter in norm.parameters():
        parameter.data.normal_()
    with torch.inference_mode(inference):
        parts = torch.randn(4, 3, 6)
        x = parts.sum(1)
        found = normed(norm, x, parts)
        bias = norm.bias if isinstance(norm, nn.LayerNorm) else 0
        close(found.sum(1) + bias, norm(x).detach())
        close(normed(norm, x, 2 * parts[:, :1]), 2 * found[:, :1])


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_a_stream_is_what_was_written_into_it(architecture: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    run = streams(heads, batch(), ["layers.1.attention.value"])
    assert "layers.1.attention.value" in run.found
    for layer in range(4):
        written, rest = run.written(layer, 7)
        assert written.shape == (layer, 4, 32)
        close(written.sum((0, 1)) + rest, run.before[layer][7])
        others = [run.before[0]]
        for below in range(layer):
            others += [run.mlp(below), heads.output_bias(below).expand_as(run.mlp(below))]
        close(rest, torch.stack(others).sum(0)[7])


def test_a_stream_with_norms_after_its_sums_is_refused() -> None:
    with pytest.raises(BackboneError, match="no plain sum"):
        streams(AttentionHeads(backbone_of("bert")), batch())
