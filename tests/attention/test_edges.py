"""Edges between attention heads: the slope along each, as autograd has it on a stream that is split."""

from __future__ import annotations

import pytest
import torch

from taskheads.attention.changing import site_of
from taskheads.attention.edges import EdgeAttribution
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import logit_difference
from taskheads.attention.paths import head_outputs
from taskheads.attention.planted import plant, prompts
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import pool
from taskheads.edits.edited import frozen
from taskheads.edits.maps import weight_of
from taskheads.errors import BackboneError
from tests.attention.test_changing import other_rows
from tests.attention.test_effects import readout
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch


def split_by_hand(
    heads: AttentionHeads, by: dict[str, torch.Tensor], part: str, layer: int, head: int
) -> torch.Tensor:
    """The slope for every sender below, by a pass in which this one input of this one head reads a stream of
    its own: [layers below, heads]."""
    backbone = heads.backbone
    clean = head_outputs(heads, batch())
    entering = f"layers.{layer - 1}.output"
    stream = backbone.run(batch(), [entering])[entering].detach()
    moved = torch.zeros_like(stream, requires_grad=True)
    name, at = heads.place(layer, part)  # type: ignore[arg-type]
    norm = backbone.model.get_submodule(backbone.layout.maps[layer].norms[0])

    def change(given: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        own = norm(stream + moved) @ weight_of(backbone, name)[at[head]].T
        bias = getattr(backbone.model.get_submodule(name), "bias", None)
        return made.index_copy(1, at[head], own if bias is None else own + bias[at[head]])

    with frozen(backbone):
        output = backbone.run(batch(), changes=Changes(maps={name: change}))["output"]
        readout(pool(output, batch(), "last")).sum().backward()
    assert moved.grad is not None
    return torch.stack(
        [
            (heads.contributions(n, by[site_of(n)] - clean[site_of(n)]) * moved.grad[:, None]).sum((0, 2))
            for n in range(layer)
        ]
    ) / len(batch())


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox", "qwen3"])
def test_every_edge_is_the_slope_along_it(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskheads.attention import edges

    monkeypatch.setattr(edges, "_AT_ONCE", 7)
    heads = AttentionHeads(backbone_of(architecture))
    by = head_outputs(heads, other_rows())
    found = EdgeAttribution(heads)(batch(), readout, by=by).values
    assert found.shape == (3, 4, 3, 3, 4)
    for part_number, part in enumerate(("query", "key", "value")):
        for layer, head in ((1, 0), (2, 1)):
            wanted = split_by_hand(heads, by, part, layer, head)
            torch.testing.assert_close(
                found[:layer, :, part_number, layer, head], wanted, atol=1e-6, rtol=1e-4
            )
    # Nothing leads to its own layer or below.
    for layer in range(3):
        assert not found[layer:, :, :, layer].any()


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_planted_edge_is_the_strongest(architecture: str) -> None:
    planted = plant(architecture, ["retrieval"], noise=0.01)  # type: ignore[arg-type]
    heads, asked = AttentionHeads(planted.backbone), prompts("retrieval", 6)
    # The planted patterns are so sharp that they have no slope: softer ones do.
    with torch.no_grad():
        layer, head = planted.heads["retrieval"]
        name, at = heads.place(layer, "query")
        weight_of(planted.backbone, name)[at[head]] *= 0.01
    measure = logit_difference(planted.head, asked.answers, asked.others)
    edges = EdgeAttribution(heads)(RaggedBatch(asked.rows), measure)
    found = edges.top(1)[0]
    receiver = planted.heads["retrieval"]
    if architecture == "llama":
        receiver = (receiver[0], heads.key_head(*receiver))
    assert found[:3] == (planted.heads["previous"], "key", receiver)
    layer, head = planted.heads["previous"]
    edges.values[layer, head] = 0
    assert edges.values.abs().max() < 1e-3 * abs(found[3])


def test_a_stream_that_is_normed_after_adding_is_refused() -> None:
    with pytest.raises(BackboneError, match="no plain sum"):
        EdgeAttribution(AttentionHeads(backbone_of("bert")))
