from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.metrics import log_loss

from taskheads.heads.ordinal import OrdinalHead, all_threshold_loss, likeliest_cuts
from taskheads.training.solver import Basis, Block, LeastSquares, Targets, solve
from tests.heads.planted import MEAN, generator, make_task, normal

LEVELS = 4
TASK = make_task("ordinal", range(1, LEVELS + 1))
CUTS = torch.tensor([-2.0, 0.5, 1.5])


def planted(n: int = 4000, d: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, a direction, and the levels that a cumulative logistic model draws from them."""
    features = normal(n, d)
    direction = torch.tensor([2.0, -1.0, 0.5, 0.0, 0.0])[:, None]
    noise = torch.rand(n, 1, generator=generator(1)).logit()
    levels = ((features @ direction + noise) > CUTS).sum(1)
    return features, direction, levels


def solved(features: torch.Tensor, levels: torch.Tensor) -> OrdinalHead:
    head = OrdinalHead(TASK, [MEAN], features.shape[1])
    found = solve(
        Basis([Block.of(features)]).span(torch.eye(features.shape[1])),
        lambda scores, extra: head.objective(scores, levels, extra),
        1,
        1e-6,
        curvature=head.curvature,
        extra=head.extra,
        biased=head.biased,
        tolerance=1e-3,
    )
    head.put(found.weight, found.bias, found.extra)
    return head


@pytest.mark.method("all_threshold_ordinal")
def test_a_planted_order_is_recovered() -> None:
    features, direction, levels = planted(20_000)
    head = solved(features, levels)
    torch.testing.assert_close(head.weight.detach(), direction, atol=0.15, rtol=0)
    torch.testing.assert_close(head.thresholds.detach() - head.bias.detach(), CUTS, atol=0.15, rtol=0)


@pytest.mark.method("all_threshold_ordinal")
def test_the_loss_is_the_sum_of_the_binary_losses() -> None:
    scores = normal(50, 1).double()
    levels = torch.randint(LEVELS, (50,), generator=generator(2))
    cuts = CUTS.double()
    probability = (scores - cuts).sigmoid().numpy()
    binary = [
        log_loss(levels.numpy() > k, probability[:, k], labels=[False, True]) for k in range(LEVELS - 1)
    ]
    assert float(all_threshold_loss(scores, levels, cuts)) == pytest.approx(sum(binary))


@pytest.mark.method("all_threshold_ordinal")
def test_the_minimiser_has_ordered_thresholds_and_true_probabilities() -> None:
    features, _, levels = planted(300)
    head = solved(features, levels)
    assert (head.thresholds.diff() > 0).all()
    with torch.no_grad():
        made = head.decide(head(features))
    np.testing.assert_allclose(made.scores.sum(1), 1, atol=1e-6)
    assert (made.scores >= 0).all()
    # The median: as likely as not to be passed.
    cumulative = made.scores.cumsum(1)
    at = np.arange(len(features)), made.predicted
    assert (cumulative[at] >= 0.5 - 1e-6).all()
    assert ((cumulative - made.scores)[at] <= 0.5 + 1e-6).all()


@torch.no_grad()
def test_tuning_finds_scale_and_thresholds_of_a_direction() -> None:
    features, direction, levels = planted(20_000)
    head = OrdinalHead(TASK, [MEAN], 5)
    head.put(0.1 * direction, torch.zeros(1))
    tuned = head.tune(head(features), levels)
    torch.testing.assert_close(tuned, head(features))
    torch.testing.assert_close(head.weight, direction, atol=0.15, rtol=0)
    torch.testing.assert_close(head.thresholds, CUTS, atol=0.15, rtol=0)


@torch.no_grad()
def test_tuning_never_turns_the_order_round() -> None:
    features, direction, levels = planted(300)
    head = OrdinalHead(TASK, [MEAN], 5)
    head.put(-direction, torch.zeros(1))
    head.tune(head(features), levels)
    assert (head.weight * -direction >= 0).all()
    assert (head.thresholds.diff() >= 0).all()


@torch.no_grad()
@pytest.mark.parametrize("levels", [[], [2], [0, 0, 0]], ids=str)
def test_tuning_on_next_to_nothing_stays_finite(levels: list[int]) -> None:
    head = OrdinalHead(TASK, [MEAN], 5)
    head.put(torch.ones(5, 1), torch.zeros(1))
    head.tune(head(normal(len(levels), 5)), torch.tensor(levels, dtype=torch.int64))
    assert torch.isfinite(head.thresholds).all()
    assert (head.thresholds.diff() >= 0).all()
    assert torch.isfinite(head.weight).all()


def test_least_squares_starts_from_thresholds_between_the_levels() -> None:
    features, _, levels = planted()
    head = OrdinalHead(TASK, [MEAN], 5)
    (found,) = LeastSquares(Basis([Block.of(features)]), Targets(head.as_numbers(levels))).solutions([1e-3])
    head.put(found.weight, found.bias, found.extra)
    assert head.thresholds.tolist() == [0.5, 1.5, 2.5]
    with torch.no_grad():
        rounded = head(features)[:, 0].round().clamp(0, LEVELS - 1)
        assert (head.decide(head(features)).predicted == rounded.numpy()).mean() > 0.999


def test_answers_are_levels_as_the_user_wrote_them() -> None:
    head = OrdinalHead(TASK, [MEAN], 5)
    answers = head.answers(head.decide(torch.tensor([[-9.0], [9.0]])), scores=True)
    assert [answer["value"] for answer in answers] == [1, 4]
    assert set(answers[0]["scores"]) == {"1", "2", "3", "4"}


@pytest.mark.parametrize("n", [30, 3000])
def test_cuts_are_those_of_a_general_minimiser(n: int) -> None:
    scores = 40 + 0.1 * normal(n).double()
    above = (scores * 30 + torch.rand(n, generator=generator(1)).logit())[:, None] > 1200 + CUTS
    yes = above.sum(0)
    wanted = torch.where(above, (yes + 1) / (yes + 2), 1 / (n - yes + 2)).numpy()

    def unlikely(free: np.ndarray) -> float:
        apart = free[0] * (scores.numpy()[:, None] - 40) - free[1:]
        return float((np.logaddexp(0, apart) - wanted * apart).sum() / n)

    best = minimize(unlikely, np.zeros(LEVELS), method="BFGS", options={"gtol": 1e-9}).x
    factor, thresholds = likeliest_cuts(scores, above)
    np.testing.assert_allclose([factor, *(thresholds - 40 * factor)], best, rtol=1e-3, atol=1e-3)


def test_cuts_are_finite_and_keep_the_order_whatever_the_scores() -> None:
    scores = normal(50)
    for above in (scores > 0, scores < 0, scores > 99, scores < 99):
        for given in (scores, 1e6 * scores, torch.ones(50)):
            factor, thresholds = likeliest_cuts(given, above[:, None])
            assert 0 < factor < 1e4
            assert torch.isfinite(thresholds).all()
    factor, (threshold,) = likeliest_cuts(scores, (scores > 0)[:, None])
    assert (((factor * scores - threshold) > 0) == (scores > 0)).all()
