"""Fisher and RegMean: what they weigh models by, and the statistics that they take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from taskheads.errors import ModelError
from taskheads.merging.learned.statistics import empirical_fisher, fisher_diagonal, input_grams
from taskheads.merging.static.averages import Linear
from taskheads.merging.static.by_data import Fisher, RegMean
from taskheads.merging.tensors import merge_tensors
from tests.heads.planted import normal
from tests.merging.models import close, family, same


@pytest.mark.method("fisher")
def test_fisher_weighs_each_element_by_its_information() -> None:
    _, models = family(2)
    information = [{name: each.abs() for name, each in model.items()} for model in models]
    found = merge_tensors(Fisher(), models, weights=[1.0, 3.0], statistics=information)
    for name, value in found.items():
        a, b = (model[name].double() for model in models)
        f, g = (each[name].double() for each in information)
        torch.testing.assert_close(value.double(), (f * a + 3 * g * b) / (f + 3 * g), rtol=1e-6, atol=1e-7)
    # All alike: the mean. All in one model: that model. Nowhere any: the mean.
    ones, zeros = ({name: torch.full_like(v, x) for name, v in models[0].items()} for x in (1.0, 0.0))
    mean = merge_tensors(Linear(), models)
    assert close(merge_tensors(Fisher(), models, statistics=[ones, ones]), mean)
    assert same(merge_tensors(Fisher(), models, statistics=[zeros, ones]), models[1])
    assert same(merge_tensors(Fisher(), models, statistics=[zeros, zeros]), mean)
    assert same(merge_tensors(Fisher(), models, statistics=[{}, {}]), mean)
    with pytest.raises(ModelError, match="there for some models and not for others"):
        merge_tensors(Fisher(), models, statistics=[ones, {}])


@pytest.mark.method("fisher")
def test_the_fisher_diagonal_is_that_of_logistic_regression() -> None:
    """For softmax regression the information of weight [k, i] is the mean of x_i² p_k (1 - p_k)."""
    module, rows = nn.Linear(5, 3, bias=False), normal(20, 5)
    found = fisher_diagonal(module, rows.split(1), lambda net, row: net(row))["weight"]
    p = module(rows).softmax(-1).detach()
    torch.testing.assert_close(found, torch.einsum("nk,ni->ki", p * (1 - p), rows.square()) / 20)
    with pytest.raises(ValueError, match="a batch is one row"):
        fisher_diagonal(module, [rows], lambda net, row: net(row))
    losses = (module(row).logsumexp(-1).sum() for row in rows.split(1))
    squares = torch.stack([p[n][:, None] * rows[n] for n in range(20)]).square().mean(0)
    torch.testing.assert_close(empirical_fisher(dict(module.named_parameters()), losses)["weight"], squares)


@pytest.mark.method("regmean")
def test_regmean_is_the_least_squares_map_of_all_tasks_inputs() -> None:
    inputs = [normal(50, 6, seed=1), normal(70, 6, seed=2) @ torch.diag(torch.arange(1.0, 7.0))]
    maps = [nn.Linear(6, 4) for _ in inputs]
    grams = [
        input_grams(each, x.split(10), lambda net, x: net(x)) for each, x in zip(maps, inputs, strict=True)
    ]
    torch.testing.assert_close(grams[0]["weight"], inputs[0].T @ inputs[0], rtol=1e-5, atol=1e-4)
    models = [{name: each.detach() for name, each in module.named_parameters()} for module in maps]
    found = merge_tensors(RegMean(diagonal=1.0), models, statistics=grams)
    stacked = torch.cat(inputs).double()
    wanted = torch.cat([x.double() @ m["weight"].double().T for x, m in zip(inputs, models, strict=True)])
    expected = torch.linalg.lstsq(stacked, wanted).solution.T
    torch.testing.assert_close(found["weight"].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found["bias"], merge_tensors(Linear(), models)["bias"])
    # Inputs that do not overlap: each model's own map where its own inputs are.
    apart = [{"weight": torch.diag((torch.arange(6) < 3) == side).float()} for side in (True, False)]
    kept = merge_tensors(RegMean(), [{"weight": m["weight"]} for m in models], statistics=apart)["weight"]
    expected = torch.cat([models[0]["weight"][:, :3], models[1]["weight"][:, 3:]], 1)
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ModelError, match=r"Gram matrix of 'weight' is not \[6, 6\]"):
        merge_tensors(RegMean(), models[:1], statistics=[{"weight": torch.eye(5)}])
