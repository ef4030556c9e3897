"""Models with fewer feed-forward neurons: they answer as if those were 0."""

from __future__ import annotations

import pytest
import torch

from taskheads.attention.neurons import silent, without_neurons
from taskheads.errors import BackboneError
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close

NEURONS = {0: [3, 5], 2: range(20)}


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "gpt2", "gpt_neox", "llama", "qwen3", "t5"])
@torch.inference_mode()
def test_a_smaller_model_is_the_silenced_one(architecture: str) -> None:
    backbone = backbone_of(architecture)
    whole = backbone.run(batch())["output"]
    smaller = without_neurons(backbone, NEURONS)
    close(smaller.run(batch())["output"], backbone.run(batch(), changes=silent(NEURONS))["output"])
    assert (smaller.run(batch())["output"] - whole).abs().max() > 1e-3
    sizes = [sum(p.numel() for p in each.model.parameters()) for each in (smaller, backbone)]
    assert sizes[0] < sizes[1]
    assert torch.equal(backbone.run(batch())["output"], whole)
    # What goes later stands beside what went before.
    again = without_neurons(smaller, {1: [0]})
    both = silent({**NEURONS, 1: [0]})
    close(again.run(batch())["output"], backbone.run(batch(), changes=both)["output"])


@pytest.mark.parametrize("architecture", ["modernbert", "mixtral"])
def test_neurons_that_stand_elsewhere(architecture: str) -> None:
    with pytest.raises(BackboneError, match="cannot be told apart"):
        without_neurons(backbone_of(architecture), {0: [1]})
