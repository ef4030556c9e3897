"""Linear maps by oneDNN: the same maps, in answering passes alone, and the model is otherwise what it was."""

import copy
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from taskheads.backbone import linear_maps
from taskheads.backbone.attention import Attention, attending
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.linear_maps import (
    Linear,
    TransposedLinear,
    onednn_multiplies_faster,
    product,
    put_onednn,
)
from taskheads.backbone.ragged import Encoded, RaggedBatch
from tests.backbone.models import CONFIGS, tiny

PASS = Attention(batch=None)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of what oneDNN has made."""
    made = []

    def multiplied(*given: torch.Tensor) -> torch.Tensor:
        product = own(*given)
        made.append(product.shape)
        return product

    own = linear_maps._multiplied
    monkeypatch.setattr(linear_maps, "_multiplied", multiplied)
    return made


def maps() -> nn.ModuleList:
    made = nn.ModuleList([nn.Linear(24, 40), nn.Linear(24, 40, bias=False), Conv1D(40, 24)])
    put_onednn(made)
    assert [type(module) for module in made] == [Linear, Linear, TransposedLinear]
    return made


@pytest.mark.parametrize("shape", [(64, 24), (1, 65, 24), (3, 30, 24)])
def test_a_product_is_that_of_float64(shape: tuple[int, ...], products: list[torch.Size]) -> None:
    values = torch.randn(shape)
    for module in maps():
        exact = copy.deepcopy(module).double()(values.double())
        with torch.inference_mode(), attending(PASS):
            torch.testing.assert_close(module(values).double(), exact, atol=1e-5, rtol=1e-5)
    assert products == [torch.Size([*shape[:-1], 40])] * 3


def test_all_else_is_torchs_own_to_the_last_bit(products: list[torch.Size]) -> None:
    few, many = torch.randn(63, 24), torch.randn(64, 24)
    for module in maps():
        own = [nn.Linear, Conv1D][isinstance(module, Conv1D)].forward
        with torch.inference_mode():
            assert torch.equal(module(many), own(module, many))
            with attending(PASS):
                assert torch.equal(module(few), own(module, few))
                lower = module.to(torch.bfloat16)
                assert torch.equal(lower(many.bfloat16()), own(lower, many.bfloat16()))
        module.float()
        with attending(PASS):
            made = module(many)
            assert torch.equal(made, own(module, many))
            made.sum().backward()
            assert module.weight.grad.any()
    assert not products


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_by_itself_has_no_gradient(
    faster: bool, dtype: torch.dtype, products: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_maps, "onednn_multiplies_faster", lambda: faster)
    values, weight, bias = (torch.randn(shape, dtype=dtype) for shape in ((70, 9), (3, 9), (3,)))
    made = product(values, weight.requires_grad_(), bias)
    assert not made.requires_grad
    exact = values.double() @ weight.detach().double().T + bias.double()
    torch.testing.assert_close(made.double(), exact, atol=1e-5, rtol=1e-5)
    assert len(products) == (faster and dtype == torch.float32)


def test_a_map_cut_to_no_inputs_gives_its_bias(products: list[torch.Size]) -> None:
    # transformers' Conv1D knows no such thing.
    for module in maps()[:2]:
        module.weight = nn.Parameter(torch.empty(40, 0))
        with torch.inference_mode(), attending(PASS):
            expected = torch.zeros(40) if module.bias is None else module.bias
            assert torch.equal(module(torch.empty(70, 0)), expected.expand(70, 40))
    assert not products


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_pass_is_that_of_the_plain_model(
    architecture: str, products: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_maps, "_TOKENS", 1)
    plain = tiny(CONFIGS[architecture])
    backbone = Backbone(copy.deepcopy(plain))
    put_onednn(backbone.model)
    generator = np.random.default_rng(0)
    rows = [Encoded(generator.integers(3, 97, length)) for length in (7, 1, 12, 20)]
    with torch.inference_mode():
        products.clear()
        ours = backbone.run(RaggedBatch(rows))["output"]
        assert len(products) >= 3 * backbone.n_layers
        theirs = [plain(input_ids=torch.from_numpy(row.ids)[None]).last_hidden_state[0] for row in rows]
    torch.testing.assert_close(ours, torch.cat(theirs), atol=1e-5, rtol=1e-5)


def test_putting_it_keeps_all_that_a_map_has() -> None:
    model = nn.ModuleDict({"map": nn.Linear(4, 6), "again": nn.Linear(4, 6)})
    model["tied"] = model["map"]
    heard = []
    model["map"].register_forward_hook(lambda *_: heard.append(True))
    model["map"].weight.requires_grad_(False)
    parameters, names = list(model.parameters()), list(model.state_dict())
    put_onednn(model)
    put_onednn(model)
    assert model["tied"] is model["map"]
    assert all(now is before for now, before in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == names
    model["tied"](torch.randn(2, 4))
    assert heard


def test_a_map_of_a_kind_of_its_own_is_left_alone() -> None:
    class Doubling(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model = nn.Sequential(Doubling(4, 4))
    put_onednn(model)
    assert type(model[0]) is Doubling


@pytest.mark.parametrize(
    ("described", "capability", "there", "expected"),
    [
        ("vendor_id : AuthenticAMD", "AVX512", True, True),
        ("AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", "AVX512", False, True),
        ("vendor_id : AuthenticAMD", "AVX2", True, False),
        ("vendor_id : GenuineIntel", "AVX512", True, False),
        ("", "AVX512", False, False),
    ],
)
def test_it_is_known_by_the_processors_maker(
    described: str, capability: str, there: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(platform, "processor", lambda: described)
    monkeypatch.setattr(Path, "is_file", lambda _: there)
    monkeypatch.setattr(Path, "read_text", lambda _: described)
    assert onednn_multiplies_faster.__wrapped__() is expected


@pytest.mark.parametrize("faster", [True, False])
def test_a_backbone_has_it_where_it_is_faster(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskheads.backbone.backbone.onednn_multiplies_faster", lambda: faster)
    backbone = Backbone(tiny(CONFIGS["bert"]))
    assert all(
        isinstance(module, Linear) is faster
        for module in backbone.model.modules()
        if isinstance(module, nn.Linear)
    )
