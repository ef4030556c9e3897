"""Loss weightings: what they weigh, what they learn, and that they go on where they stopped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from taskheads.errors import ConfigError
from taskheads.sharing.weighting import SLAW, WEIGHTINGS, DynamicWeightAverage, Uncertainty, loss_weighting


@pytest.mark.method("equal")
def test_equal_weights_are_the_sum_of_the_losses() -> None:
    losses = torch.tensor([0.3, 2.0, 5.0], requires_grad=True)
    total = loss_weighting("equal", 3).total(losses)
    total.backward()
    assert total.item() == pytest.approx(7.3)
    assert losses.grad.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.method("uncertainty")
def test_uncertainty_is_the_likelihood_of_a_gaussian() -> None:
    weighting = Uncertainty(2)
    with torch.no_grad():
        weighting.log_variances.copy_(torch.tensor([0.7, -1.2]))
    errors = torch.tensor([[0.4, -1.5, 2.0], [0.1, 0.3, -0.2]])
    total = weighting.total(0.5 * errors.square().mean(1))
    deviations = weighting.log_variances.exp().sqrt()
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    expected = -Normal(0.0, deviations[:, None]).log_prob(errors).mean(1).sum() - 2 * constant
    torch.testing.assert_close(total, expected)


@pytest.mark.method("uncertainty")
def test_uncertainty_learns_twice_the_loss_as_variance() -> None:
    weighting, losses = Uncertainty(3), torch.tensor([0.1, 1.0, 4.0])
    optimiser = torch.optim.Adam(weighting.parameters(), lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        weighting.total(losses).backward()
        optimiser.step()
    torch.testing.assert_close(weighting.log_variances.exp(), 2 * losses, rtol=1e-2, atol=0.0)


@pytest.mark.method("dynamic_weight_average")
def test_dynamic_weight_average_is_its_formula_on_the_means_of_two_periods() -> None:
    weighting = DynamicWeightAverage(2)
    periods = [[(1.0, 4.0), (3.0, 4.0)], [(1.0, 5.0), (0.0, 1.0)]]
    for period in periods:
        assert weighting.weights().tolist() == [1.0, 1.0]
        for losses in period:
            assert float(weighting.total(torch.tensor(losses))) == pytest.approx(sum(losses))
            weighting.observe(torch.tensor(losses))
        weighting.end_period()
    rates = torch.tensor([0.5 / 2.0, 3.0 / 4.0], dtype=torch.float64)
    expected = 2 * (rates / 2).exp() / (rates / 2).exp().sum()
    torch.testing.assert_close(weighting.weights(), expected)
    # Whose loss fell more slowly counts for more.
    assert weighting.weights()[1] > weighting.weights()[0]
    losses = torch.tensor([2.0, 3.0], requires_grad=True)
    weighting.total(losses).backward()
    torch.testing.assert_close(losses.grad, expected.float())


@pytest.mark.method("dynamic_weight_average")
def test_a_task_without_rows_in_a_period_counts_as_one_that_stood_still() -> None:
    weighting = DynamicWeightAverage(3)
    for _ in range(2):
        weighting.observe(torch.tensor([1.0, 2.0]), [0, 2])
        weighting.end_period()
    torch.testing.assert_close(weighting.weights(), torch.ones(3).double())


@pytest.mark.method("slaw")
def test_slaw_weighs_by_one_over_the_deviation_of_what_it_saw() -> None:
    """Deviations of moving averages that begin with the first value seen, by their definition."""
    weighting, decay = SLAW(3, decay=0.9), 0.9
    rng = np.random.default_rng(0)
    losses = rng.normal([5.0, 1.0, 0.3], [0.5, 0.02, 0.1], (40, 3))
    for step, each in enumerate(losses):
        if step < 5:
            assert weighting.weights().tolist() == [1.0, 1.0, 1.0]
        weighting.observe(torch.from_numpy(each))
    ages = decay ** np.arange(len(losses))[::-1]
    mean = np.average(losses, 0, ages)
    inverse = 1 / np.sqrt(np.average((losses - mean) ** 2, 0, ages))
    np.testing.assert_allclose(weighting.weights().numpy(), 3 * inverse / inverse.sum(), rtol=1e-8)


@pytest.mark.method("slaw")
def test_slaw_makes_gradients_equally_long() -> None:
    """Of linear losses with gradients of planted lengths, at weights that lie at random around a point."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.tensor([0.1, 1.0, 20.0])
    gradients = torch.nn.functional.normalize(torch.randn(3, 50, generator=draw)) * lengths[:, None]
    weighting = SLAW(3, decay=0.999)
    for _ in range(4000):
        weighting.observe(gradients @ torch.randn(50, generator=draw))
    weighted = weighting.weights() * lengths
    torch.testing.assert_close(weighted / weighted.mean(), torch.ones(3).double(), rtol=0.1, atol=0.0)


@pytest.mark.method("slaw")
def test_slaw_does_not_give_all_to_a_task_that_has_no_loss_left() -> None:
    weighting = SLAW(2)
    for value in (0.0, 0.2, 0.0, 0.2, 0.0, 0.2):
        weighting.observe(torch.tensor([0.0, value]))
    weights = weighting.weights()
    assert weights.isfinite().all()
    assert weights[1] > 0.005


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_only_present_tasks_count(name: str) -> None:
    weighting = loss_weighting(name, 3)
    losses = torch.tensor([2.0, 5.0])
    assert weighting.total(losses, [0, 2]).item() == pytest.approx(7.0)
    weighting.total(losses.requires_grad_(), [0, 2]).backward()
    for parameter in weighting.parameters():
        assert parameter.grad[1] == 0


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_parts_of_a_step_and_one_price_are_its_total(name: str) -> None:
    weighting, draw = loss_weighting(name, 4), torch.Generator().manual_seed(0)
    for parameter in weighting.parameters():
        torch.nn.init.normal_(parameter, generator=draw)
    for _ in range(6):
        weighting.observe(torch.rand(4, generator=draw))
        weighting.end_period()
    # Task 2 has no rows; task 3 has none in the first part.
    first, second = torch.rand(2, generator=draw), torch.rand(3, generator=draw)
    parts = weighting.weighted(first, [0, 1]) + weighting.weighted(second, [0, 1, 3])
    whole = second + torch.cat([first, torch.zeros(1)])
    torch.testing.assert_close(
        parts + weighting.price([0, 1, 3]), weighting.total(whole, [0, 1, 3]), check_dtype=False
    )
    assert name == "equal" or (weighting.weights() - 1).abs().min() > 1e-3


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_resumed_run_weighs_the_same(name: str) -> None:
    def go(weighting: torch.nn.Module, start: int, stop: int) -> list[torch.Tensor]:
        found = []
        for step in range(start, stop):
            losses = torch.tensor([1.0, 2.0, 3.0]) / (1 + step * torch.tensor([0.1, 0.2, 0.5]))
            total = weighting.total(losses.requires_grad_())
            total.backward()
            with torch.no_grad():
                for parameter in weighting.parameters():
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
            weighting.observe(losses)
            found.append(total.detach())
            if step % 2:
                weighting.end_period()
        return found

    whole = go(loss_weighting(name, 3), 0, 9)
    first = loss_weighting(name, 3)
    begun = go(first, 0, 4)
    second = loss_weighting(name, 3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(torch.stack(begun + go(second, 4, 9)), torch.stack(whole))


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="did you mean 'uncertainty'"):
        loss_weighting("uncertanty", 2)
