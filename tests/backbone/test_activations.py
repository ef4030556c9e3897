"""GELU by torch's kernel: the same function, and written over its input only where nobody would see it."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from transformers.activations import ACT2FN

from taskheads.backbone.activations import Gelu, put_gelu
from taskheads.backbone.attention import Attention, attending
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.hearing import Heard


class Layer(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.act = ACT2FN[name]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.act(values)


@pytest.mark.parametrize(
    "name", ["gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh"]
)
def test_it_is_the_function_in_whose_place_it_stands(name: str) -> None:
    layer, values = Layer(name), torch.linspace(-8, 8, 10_001, dtype=torch.float64)
    before = layer(values)
    put_gelu(layer)
    assert isinstance(layer.act, Gelu)
    with attending(Attention(batch=None)):
        # The constant of gelu_fast has ten digits.
        torch.testing.assert_close(layer(values), before, rtol=0, atol=1e-9)
    assert torch.equal(layer(values), before)


def test_it_is_put_once() -> None:
    layer = Layer("gelu_new")
    put_gelu(layer)
    gelu, own = layer.act, layer.act.own
    put_gelu(layer)
    assert layer.act is gelu
    assert layer.act.own is own


@pytest.mark.parametrize("name", ["relu", "silu", "quick_gelu", "gelu_10", "tanh"])
def test_other_activations_are_left_alone(name: str) -> None:
    layer = Layer(name)
    before = layer.act
    put_gelu(layer)
    assert layer.act is before


def test_it_overwrites_its_input_in_an_answering_pass_alone() -> None:
    gelu, values = Gelu(ACT2FN["gelu"], "none"), torch.linspace(-1, 1, 5)

    def overwritten(attention: Attention | None) -> bool:
        given = values.clone()
        if attention is None:
            gelu(given)
        else:
            with attending(attention):
                gelu(given)
        return not torch.equal(given, values)

    with torch.inference_mode():
        assert overwritten(Attention(batch=None, overwrites=True))
        assert not overwritten(Attention(batch=None))
        assert not overwritten(None)
    assert not overwritten(Attention(batch=None, overwrites=True))


def test_it_stands_where_a_backbone_has_gelu(minilm: Backbone) -> None:
    found = [module for module in minilm.model.modules() if isinstance(module, Gelu)]
    assert len(found) == minilm.n_layers
    assert {module.approximate for module in found} == {"none"}


def test_what_a_map_made_is_heard_as_it_was(minilm: Backbone) -> None:
    name = minilm.layout.maps[2].mlp[0]
    module = minilm.model.get_submodule(name)
    (batch,) = minilm.batches(minilm.tokens.texts(["one text", "another and longer text"]))
    heard = Heard([name])
    with torch.inference_mode():
        with_ears = minilm.run(batch, changes=heard.changes)["output"]
        without = minilm.run(batch)["output"]
        (given,), (made,) = heard.inputs[name], heard.outputs[name]
        torch.testing.assert_close(made, linear(given, module.weight, module.bias), rtol=0, atol=1e-6)
    assert torch.equal(with_ears, without)
