"""Dropout from few random bits: what it is to be, and where it stands."""

import copy

import pytest
import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.dropout import Dropout, dropout, put_dropout
from taskheads.backbone.patterns import Block


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_value_is_dropped_with_its_probability_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    count = 1_000_003  # not a multiple of how many are drawn at once
    found = dropout(torch.ones(count), p)
    kept = found > 0
    # Five standard deviations of a binomial, beside what rounding the probability may change.
    assert float(kept.float().mean()) == pytest.approx(1 - p, abs=5 * (p * (1 - p) / count) ** 0.5 + 2**-17)
    assert found[kept].unique().tolist() == [pytest.approx(1 / (1 - p), rel=1e-3)]
    # Neighbours, four of which come from one number, are dropped independently of each other.
    for apart in (1, 2, 3, 4):
        both = float((kept[apart:] & kept[:-apart]).float().mean())
        assert both == pytest.approx((1 - p) ** 2, abs=5e-3)


def test_the_gradient_is_of_what_was_kept() -> None:
    values = torch.randn(7, 5, requires_grad=True)
    found = dropout(values, 0.4)
    found.backward(torch.ones(7, 5) * 3)
    scale = torch.where(found != 0, found / values, 0).detach()
    torch.testing.assert_close(values.grad, 3 * scale)
    assert 0 < int((scale == 0).sum()) < 35


def test_the_generator_decides() -> None:
    values = torch.ones(64)
    torch.manual_seed(3)
    one, other = dropout(values, 0.5), dropout(values, 0.5)
    torch.manual_seed(3)
    again = dropout(values, 0.5)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_it_stands_where_a_model_has_dropout(minilm: Backbone) -> None:
    model = copy.deepcopy(minilm.model)
    found = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert {type(module) for module in found} == {Dropout}
    assert {module.p for module in found} == {0.1}
    values = torch.ones(8)
    assert torch.equal(found[0](values), values)
    assert not torch.equal(found[0].train()(values.repeat(100)), values.repeat(100))


def test_dropout_that_writes_over_its_input_is_left_alone() -> None:
    model = nn.Sequential(nn.Dropout(0.3).eval(), nn.Dropout(0.3, inplace=True), nn.Dropout1d(0.3))
    put_dropout(model)
    assert [type(each) for each in model] == [Dropout, nn.Dropout, nn.Dropout1d]
    assert not model[0].training


@pytest.mark.parametrize("kind", ["all", "causal", "padded", "grouped"])
def test_attention_with_next_to_no_dropout_is_that_without(kind: str) -> None:
    query, key, value = torch.randn(3, 2, 4, 6, 8).unbind()
    if kind == "grouped":
        key, value = key[:, :2], value[:, :2]
    mask = torch.arange(6) < torch.tensor([6, 4]).view(2, 1, 1, 1) if kind == "padded" else None
    block = Block(query, key, value, mask, kind == "causal", None)
    torch.testing.assert_close(block.attend(1e-9), block.attend(0.0), atol=1e-6, rtol=1e-5)
    torch.manual_seed(0)
    mean = torch.stack([block.attend(0.1) for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, block.attend(0.0), atol=0.05, rtol=0)
