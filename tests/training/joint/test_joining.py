"""How losses become one gradient does not depend on how a step is cut up or scaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from taskheads.errors import ConfigError
from taskheads.training.joint.loop import Run
from taskheads.training.joint.optimiser import rate_at
from taskheads.training.joint.recipe import Recipe
from tests.training.joint.planted import run_of, without_dropout

LEARNED = ["uncertainty", "dynamic_weight_average", "slaw"]


def plain(said: dict[str, Any]) -> Run:
    """A run that no dropout and no optimiser blurs: Adam would make steps of the rounding error of a gradient
    that is zero."""
    run = without_dropout(run_of({"steps": 9, "evaluations": 3} | said))
    groups = [{"params": group["params"], "peak": 0.1} for group in run.optimizer.param_groups]
    run.optimizer = torch.optim.SGD(groups, lr=0.1)
    return run


def assert_same(first: Run, second: Run) -> None:
    for name, each in first.weights.items():
        torch.testing.assert_close(second.weights[name], each, rtol=0.0, atol=1e-6)
    mine, other = first.joining.state_dict(), second.joining.state_dict()
    assert mine.keys() == other.keys()
    for name, kept in mine.items():
        torch.testing.assert_close(other[name], kept, rtol=1e-6, atol=1e-6)


def weights_of(run: Run) -> torch.Tensor:
    return run.joining.weighting.weights().detach()  # type: ignore[attr-defined]


@pytest.mark.parametrize("weighting", LEARNED)
def test_a_step_in_parts_learns_the_weights_of_the_step_in_one(weighting: str) -> None:
    whole, parts = (plain({"weighting": weighting, "accumulate": k}) for k in (1, 3))
    whole.train(), parts.train()
    # Something was learned that could have differed.
    assert (weights_of(whole) - 1).abs().max() > 1e-3
    assert_same(whole, parts)
    torch.testing.assert_close(weights_of(parts), weights_of(whole), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_log_variance_descends_the_weighted_loss_and_its_price(accumulate: int) -> None:
    run = plain({"weighting": "uncertainty", "steps": 1, "accumulate": accumulate})
    run.train()
    # At s = 0 the gradient of loss · exp(-s) + ½ s is ½ - loss.
    losses = torch.tensor([run.course.losses[name][0][1] / run.units[name] for name in run.rows])
    moved = -0.1 * rate_at(0, 1, run.recipe) * (0.5 - losses)
    torch.testing.assert_close(weights_of(run), (-moved).exp(), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("weighting", LEARNED)
def test_scaled_losses_learn_the_same(weighting: str) -> None:
    whole, scaled = (plain({"weighting": weighting}) for _ in range(2))
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    whole.train(), scaled.train()
    assert_same(whole, scaled)


def test_a_weighting_beside_a_balancer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"balance = 'upgrad'.*weighting = 'uncertainty'"):
        Recipe.of({"balance": "upgrad", "weighting": "uncertainty"})
    # Also when each of the two is said in a place of its own, and when the recipe is made directly.
    with pytest.raises(ConfigError, match="only one"):
        Recipe.of(Recipe(weighting="uncertainty"), balance="upgrad")
    with pytest.raises(ConfigError, match="only one"):
        Recipe(weighting="uncertainty", balance="upgrad")
    assert Recipe.of({"balance": "upgrad", "weighting": "equal"}).balance == "upgrad"
