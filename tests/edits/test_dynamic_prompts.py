"""Prompts made from a row's own tokens."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.edits.adapters.dynamic_prompts import DynamicPrompts
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited
from taskheads.errors import ConfigError
from tests.backbone.models import VIT, tiny
from tests.edits.planted import backbone_of, stirred

LENGTHS = [3, 1, 0, 5, 4]


def block(seed: int = 0) -> DynamicPrompts:
    torch.manual_seed(seed)
    made = DynamicPrompts(12, 6, 4, torch.nn.functional.gelu).double()
    torch.nn.init.normal_(made.up.weight)
    return made


@pytest.mark.method("dvpt")
@torch.inference_mode()
def test_rows_together_are_as_attention_row_by_row() -> None:
    module, h = block(), torch.randn(sum(LENGTHS), 12, dtype=torch.float64)
    attention = torch.nn.functional.scaled_dot_product_attention
    expected = []
    for row in h.split(LENGTHS):
        z = module.activation(module.down(row))
        if len(row):
            prompts = attention(module.prompts[None], z[None], z[None])
            expected.append(row + module.up(attention(z[None], prompts, prompts)[0]))
    torch.testing.assert_close(module(h, LENGTHS), torch.cat(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.method("dvpt")
@torch.inference_mode()
def test_prompts_are_of_the_sample_and_not_of_the_order_of_its_patches() -> None:
    module, images = block(), torch.randn(2, 9, 12, dtype=torch.float64)

    def prompts(h: torch.Tensor) -> torch.Tensor:
        return module.prompts_of(module.narrow(h.flatten(0, 1)), torch.tensor([9, 9]))

    first, second = prompts(images)
    assert (first - second).abs().max() > 1e-2
    turned = images[:, torch.randperm(9, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(prompts(turned), torch.stack([first, second]), rtol=1e-10, atol=1e-10)


@pytest.mark.method("dvpt")
def test_one_module_for_all_layers_has_a_layers_share_of_the_parameters() -> None:
    backbone = backbone_of("bert")
    counts = [
        sum(each.numel() for each in made("dvpt", backbone, ["mine"], options).parameters())
        for options in ({}, {"one_for_all": True}, {"layers": [1]})
    ]
    assert counts[0] == backbone.n_layers * counts[1]
    assert counts[1] == counts[2]
    own = made("dvpt", backbone, ["mine"], {"one_for_all": True}).own("mine", [3])
    assert [*own.sites] == ["layers.0.output", "layers.1.output", "layers.2.output"]


@pytest.mark.method("dvpt")
@torch.inference_mode()
def test_images_are_changed_one_by_one() -> None:
    backbone = Backbone(tiny(copy.deepcopy(VIT)))
    assert backbone.patches == 5
    pixels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    edit = made("dvpt", backbone, ["mine"])
    plain = backbone.run(backbone.images(pixels))["output"]
    edited = Edited(backbone, {"mine": edit}, "mine")
    assert torch.equal(edited.run(backbone.images(pixels))["output"], plain)
    stirred(edit)
    together = edited.run(backbone.images(pixels))["output"]
    alone = torch.cat([edited.run(backbone.images(one[None]))["output"] for one in pixels])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert (together - plain).abs().max() > 1e-2


@pytest.mark.method("dvpt")
def test_it_learns_what_depends_on_the_whole_row() -> None:
    # What is to be added to a token is the mean of its row, of which the token itself says little.
    torch.manual_seed(0)
    module = DynamicPrompts(4, 8, 4, torch.nn.functional.gelu)
    lengths = [6] * 40
    h = torch.randn(40, 6, 4)
    target = h.mean(1, keepdim=True).expand_as(h).flatten(0, 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (module(h.flatten(0, 1), lengths) - h.flatten(0, 1) - target).square().mean()
        loss.backward()
        optimizer.step()
    x = torch.cat([h.flatten(0, 1), torch.ones(240, 1)], 1).numpy()
    by_token = x @ np.linalg.lstsq(x, target.numpy(), rcond=None)[0]
    assert loss.item() < 0.3 * np.square(by_token - target.numpy()).mean()


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="no activation 'wavy'"):
        made("dvpt", backbone_of("bert"), ["mine"], {"activation": "wavy"})


@pytest.mark.parametrize("method", ["dvpt", "compacter", "seq_bn", "scalearn", "diffscaler"])
@pytest.mark.parametrize("layer", [9, -1])
def test_a_layer_that_is_not_there_is_named(method: str, layer: int) -> None:
    with pytest.raises(ConfigError, match=f"this backbone has no layer {layer}; its layers are 0 to 2"):
        made(method, backbone_of("bert"), ["mine"], {"layers": [layer]})
