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
from taskheads.backbone.features import extract
from taskheads.backbone.linear_maps import (
    Linear,
    TransposedLinear,
    filled,
    onednn_multiplies_faster,
    packed,
    put_onednn,
)
from taskheads.backbone.precision import Int8Linear, lowered
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.backbone.reads import Read
from tests.backbone.models import CONFIGS, tiny

PASS = Attention(batch=None)
pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of what oneDNN has made."""
    made = []

    def multiplied(module: nn.Module, values: torch.Tensor) -> torch.Tensor:
        product = own(module, values)
        made.append(product.shape)
        return product

    own = linear_maps._multiplied
    monkeypatch.setattr(linear_maps, "_multiplied", multiplied)
    return made


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor on which oneDNN is faster."""
    monkeypatch.setattr(linear_maps, "onednn_multiplies_faster", lambda: True)
    monkeypatch.setattr("taskheads.backbone.backbone.onednn_multiplies_faster", lambda: True)


def maps() -> nn.ModuleList:
    made = nn.ModuleList([nn.Linear(24, 40), nn.Linear(24, 40, bias=False), Conv1D(40, 24)])
    put_onednn(made)
    assert [type(module) for module in made] == [Linear, Linear, TransposedLinear]
    return made


@pytest.mark.parametrize("shape", [(256, 24), (1, 288, 24), (2, 160, 24)])
def test_a_product_is_that_of_float64(shape: tuple[int, ...], products: list[torch.Size]) -> None:
    values = torch.randn(shape)
    for module in maps():
        exact = copy.deepcopy(module).double()(values.double())
        with torch.inference_mode(), attending(PASS):
            torch.testing.assert_close(module(values).double(), exact, atol=1e-5, rtol=1e-5)
    assert products == [torch.Size([*shape[:-1], 40])] * 3


def test_all_else_is_torchs_own_to_the_last_bit(products: list[torch.Size]) -> None:
    few, odd, many = torch.randn(224, 24), torch.randn(257, 24), torch.randn(256, 24)
    for module in maps():
        own = [nn.Linear, Conv1D][isinstance(module, Conv1D)].forward
        with torch.inference_mode():
            assert torch.equal(module(many), own(module, many))
            with attending(PASS):
                assert torch.equal(module(few), own(module, few))
                assert torch.equal(module(odd), own(module, odd))
                lower = module.to(torch.bfloat16)
                assert torch.equal(lower(many.bfloat16()), own(lower, many.bfloat16()))
        module.float()
        with attending(PASS):
            made = module(many)
            assert torch.equal(made, own(module, many))
            made.sum().backward()
            assert module.weight.grad.any()
    assert not products


def test_a_map_cut_to_no_inputs_gives_its_bias(products: list[torch.Size]) -> None:
    # transformers' Conv1D knows no such thing.
    for module in maps()[:2]:
        module.weight = nn.Parameter(torch.empty(40, 0))
        with torch.inference_mode(), attending(PASS):
            expected = torch.zeros(40) if module.bias is None else module.bias
            assert torch.equal(module(torch.empty(256, 0)), expected.expand(256, 40))
    assert not products


def test_packed_weights_give_the_same_to_the_last_bit_and_go_again() -> None:
    model, values = maps(), torch.randn(320, 24)
    with torch.inference_mode(), attending(PASS):
        before = [module(values) for module in model]
        with packed(model, 1 << 20):
            assert all(module.packed is not None for module in model)
            with packed(model, 1 << 20):  # another one beside it
                during = [module(values) for module in model]
            assert all(module.packed is not None for module in model)
    assert all(map(torch.equal, before, during))
    assert all(module.packed is None for module in model)


def test_only_what_onednn_would_multiply_is_packed() -> None:
    kept = maps()
    kept[0].bfloat16()
    kept[1].weight = nn.Parameter(torch.empty(40, 0))
    with packed(kept, 1 << 20):
        assert [module.packed is None for module in kept] == [True, True, False]


def test_few_tokens_and_large_models_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = maps()
    with packed(model, 1000):
        assert all(module.packed is None for module in model)
    monkeypatch.setattr(linear_maps, "_PACKED_BYTES", 1000)
    with packed(model, 1 << 20):
        assert all(module.packed is None for module in model)


def test_a_weight_that_is_put_in_is_the_one_that_counts() -> None:
    values = torch.randn(256, 24)
    for module in maps():
        other = nn.Parameter(torch.randn_like(module.weight))
        with torch.inference_mode(), attending(PASS), packed(module, 1 << 20):
            own, module.weight = module.weight, other
            made = module(values)
            module.weight = own
        exact = values @ (other if isinstance(module, Conv1D) else other.T)
        exact += 0 if module.bias is None else module.bias
        torch.testing.assert_close(made, exact, atol=1e-5, rtol=1e-5)


def test_tokens_are_filled_up_where_that_is_faster(faster: None) -> None:
    assert [filled(tokens) for tokens in (1, 511, 512, 513, 544, 1000)] == [1, 511, 512, 544, 544, 1024]


def test_tokens_are_left_as_they_are_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_maps, "onednn_multiplies_faster", lambda: False)
    assert [filled(tokens) for tokens in (511, 513, 1000)] == [511, 513, 1000]


@pytest.mark.parametrize("form", ["text", "pair"])
def test_features_are_the_same_and_tokens_are_filled_up(
    form: str, faster: None, products: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["a", "river", "runs", "through", "the", "old", "town", "and", "its", "seven", "bridges"]
    texts = [" ".join(words[: 1 + number % 11]) + f" {number}" for number in range(900)]
    items = texts if form == "text" else list(zip(texts, texts[::-1], strict=True))
    reads = [Read("output", "mean"), Read("layers.2.output", "last"), Read("embeddings", "max")]
    backbone = Backbone.load("minilm")
    by_onednn = extract(backbone, form, items, reads)
    tokens = [shape.numel() // shape[-1] for shape in products]
    assert tokens
    assert all(count % 32 == 0 for count in tokens)
    # Six layers of six maps, of all batches but one that is too small.
    encoded = backbone.tokens.texts(items) if form == "text" else backbone.tokens.pairs(texts, texts[::-1])
    assert sum(tokens) >= 36 * (sum(map(len, encoded)) - 512)
    monkeypatch.undo()
    monkeypatch.setattr("taskheads.backbone.backbone.onednn_multiplies_faster", lambda: False)
    monkeypatch.setattr(linear_maps, "onednn_multiplies_faster", lambda: False)
    plain = extract(Backbone.load("minilm"), form, items, reads)
    for read in reads:
        torch.testing.assert_close(by_onednn[read], plain[read], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_pass_is_that_of_the_plain_model(
    architecture: str, products: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_maps, "_FEWEST", 1)
    plain = tiny(CONFIGS[architecture])
    backbone = Backbone(copy.deepcopy(plain))
    put_onednn(backbone.model)
    generator = np.random.default_rng(0)
    rows = [Encoded(generator.integers(3, 97, length)) for length in (7, 1, 12, 12)]
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


def test_such_maps_can_be_lowered_too() -> None:
    model = nn.Sequential(nn.Linear(4, 6))
    put_onednn(model)
    weight = model[0].weight.detach()
    (made,) = lowered(model, "int8")
    assert isinstance(made, Int8Linear)
    torch.testing.assert_close(made.weight, weight, atol=float(weight.abs().max()) / 127, rtol=0)


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


@pytest.mark.parametrize("outrun", [True, False])
def test_a_backbone_has_it_where_it_is_faster(outrun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskheads.backbone.backbone.onednn_multiplies_faster", lambda: outrun)
    backbone = Backbone(tiny(CONFIGS["bert"]))
    assert all(
        isinstance(module, Linear) is outrun
        for module in backbone.model.modules()
        if isinstance(module, nn.Linear)
    )
