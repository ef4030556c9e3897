"""The solver against scikit-learn, and against what a minimiser must be."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from taskheads.training.solver import Basis, Block, Leading, LeastSquares, Solution, Targets, solve

N, D = 300, 12


def features(n: int = N, d: int = D, seed: int = 0) -> torch.Tensor:
    """Correlated columns of different scale and mean."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator) / d**0.5
    spread = torch.linspace(0.2, 3, d)
    return torch.randn(n, d, generator=generator) @ mixing * spread + torch.arange(d) / 4


def exact(n: int = N, d: int = D) -> torch.Tensor:
    """The same in float64, where a minimiser can be told to many digits."""
    return features(n, d).double()


def labels(x: torch.Tensor, classes: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = (x - x.mean(0)) @ torch.randn(x.shape[1], classes, generator=generator)
    return (scores + 2 * torch.randn(scores.shape, generator=generator)).argmax(1)


def softmax_loss(targets: torch.Tensor):
    return lambda scores, extra: cross_entropy(scores, targets)


def softmax(x: torch.Tensor, y: torch.Tensor, penalty: float, **how) -> Solution:
    leading = basis_of(x).leading(10**6)
    return solve(leading, softmax_loss(y), int(y.max()) + 1, penalty, curvature=0.5, **how)


def basis_of(x: torch.Tensor) -> Basis:
    return Basis([Block.of(x)])


def least_squares(x: torch.Tensor, y: torch.Tensor) -> LeastSquares:
    return LeastSquares(basis_of(x), Targets(y))


def objective(x: torch.Tensor, y: torch.Tensor, weight, bias, penalty: float) -> float:
    weight, bias = (torch.as_tensor(value, dtype=torch.float64) for value in (weight, bias))
    return float(cross_entropy(x.double() @ weight + bias, y) + penalty / 2 * weight.square().sum())


@pytest.mark.parametrize(("n", "d"), [(N, D), (20, 50)])
def test_ridge_is_scikit_learns(n: int, d: int) -> None:
    x = features(n, d)
    y = torch.randn(n, 3, generator=torch.Generator().manual_seed(2)) + 5
    penalties = (1.0, 0.1, 0.003)
    for penalty, found in zip(penalties, least_squares(x, y).solutions(penalties), strict=True):
        other = Ridge(alpha=n * penalty).fit(x.double().numpy(), y.double().numpy())
        np.testing.assert_allclose(found.weight.T, other.coef_, atol=2e-4)
        np.testing.assert_allclose(found.bias, other.intercept_, atol=1e-3)
        np.testing.assert_allclose(found.scores(x), other.predict(x.double().numpy()), atol=1e-3)
        assert found.penalty == penalty
        assert found.steps == 0


@pytest.mark.parametrize("penalty", [0.1, 0.003])
@pytest.mark.parametrize(("n", "d"), [(N, D), (40, 60)])
def test_softmax_is_scikit_learns(n: int, d: int, penalty: float) -> None:
    x = features(n, d)
    y = labels(x, 4)
    found = softmax(x, y, penalty)
    other = LogisticRegression(C=1 / (n * penalty), tol=1e-10, max_iter=10_000).fit(x.double().numpy(), y)
    best = objective(x, y, other.coef_.T, other.intercept_, penalty)
    assert objective(x, y, found.weight, found.bias, penalty) == pytest.approx(best, abs=1e-5, rel=2e-3)
    np.testing.assert_allclose(found.scores(x).softmax(1), other.predict_proba(x.double().numpy()), atol=2e-3)
    precise = softmax(x.double(), y, penalty, tolerance=1e-7, max_steps=1000).scores(x.double())
    np.testing.assert_allclose(precise.softmax(1), other.predict_proba(x.double().numpy()), atol=1e-4)


def test_binary_logistic_is_scikit_learns() -> None:
    x, penalty = features(), 0.01
    y = labels(x, 2)
    loss = lambda scores, extra: binary_cross_entropy_with_logits(scores[:, 0], y.to(scores.dtype))  # noqa: E731
    found = solve(basis_of(x).leading(D), loss, 1, penalty, curvature=0.25, tolerance=1e-6)
    other = LogisticRegression(C=1 / (N * penalty), tol=1e-10, max_iter=10_000).fit(x.double().numpy(), y)
    probability = other.predict_proba(x.double().numpy())[:, 1]
    np.testing.assert_allclose(found.scores(x)[:, 0].sigmoid(), probability, atol=1e-4)


def test_the_gradient_at_the_solution_is_zero() -> None:
    x, penalty = features(), 0.01
    y = labels(x, 3)
    found = softmax(x, y, penalty)
    weight = found.weight.double().requires_grad_(True)
    bias = found.bias.double().requires_grad_(True)
    loss = cross_entropy(x.double() @ weight + bias, y) + penalty / 2 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-3
    assert bias.grad.abs().max() < 1e-3
    assert 0 < found.steps < 100


@pytest.mark.parametrize("curvature", [1e-3, 10.0])
def test_the_curvature_does_not_move_the_minimiser(curvature: float) -> None:
    x = exact()
    y = labels(x.float(), 3)
    run = partial(solve, basis_of(x).leading(D), softmax_loss(y), 3, 0.01, tolerance=1e-8, max_steps=1000)
    found, expected = run(curvature=curvature), run(curvature=0.5)
    torch.testing.assert_close(found.scores(x).softmax(1), expected.scores(x).softmax(1), atol=1e-4, rtol=0)


def test_a_warm_start_ends_at_the_same_minimiser() -> None:
    x = exact()
    y = labels(x.float(), 3)
    run = partial(softmax, x, y, 0.01, tolerance=1e-7, max_steps=1000)
    cold = run()
    warm = run(start=softmax(x, y, 1.0))
    torch.testing.assert_close(warm.scores(x).softmax(1), cold.scores(x).softmax(1), atol=1e-4, rtol=0)
    # At the minimiser there is next to nothing left to do.
    assert run(start=cold).steps <= cold.steps / 4


def test_other_parameters_of_the_loss_are_solved_for_and_warm_started() -> None:
    """An offset beside an unbiased score takes the bias's place, unpenalised."""
    x = exact()
    y = labels(x.float(), 2).double()
    leading = basis_of(x).leading(D)
    offset = lambda scores, extra: binary_cross_entropy_with_logits(scores[:, 0] - extra[0], y)  # noqa: E731
    plain = lambda scores, extra: binary_cross_entropy_with_logits(scores[:, 0], y)  # noqa: E731
    run = partial(solve, leading, outputs=1, curvature=0.25, tolerance=1e-7)
    biased = run(loss=plain, penalty=0.1)
    for start in (None, run(loss=offset, penalty=1.0, extra=[torch.zeros(1, dtype=x.dtype)], biased=False)):
        found = run(
            loss=offset, penalty=0.1, extra=[torch.zeros(1, dtype=x.dtype)], biased=False, start=start
        )
        torch.testing.assert_close(found.scores(x) - found.extra[0], biased.scores(x), atol=2e-4, rtol=0)
        assert not found.extra[0].requires_grad


def test_starting_values_are_left_alone() -> None:
    x = features()
    start = [torch.ones(1)]
    solve(
        basis_of(x).leading(3),
        lambda scores, extra: (scores[:, 0] - extra[0]).square().mean(),
        1,
        0.1,
        curvature=2,
        extra=start,
    )
    assert start[0] == 1
    assert not start[0].requires_grad


def test_a_basis_with_all_axes_is_exact() -> None:
    x = features()
    basis = basis_of(x)
    leading = basis.leading(D)
    assert leading.rows.shape == (N, D)
    torch.testing.assert_close(leading.axes.T @ leading.axes, torch.eye(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(leading.rows @ leading.axes.T + leading.mean, x, atol=1e-4, rtol=0)
    torch.testing.assert_close(leading.rows.square().mean(0), leading.variances, rtol=1e-3, atol=1e-5)
    assert (leading.variances[:-1] >= leading.variances[1:]).all()


def test_fewer_axes_are_those_of_largest_variance() -> None:
    basis = basis_of(features())
    few = basis.leading(4)
    assert few.rows.shape == (N, 4)
    torch.testing.assert_close(few.rows, basis.leading(D).rows[:, :4])


def test_rotated_features_have_the_same_scores() -> None:
    x = exact()
    y = labels(x.float(), 3)
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3), dtype=x.dtype))[0]
    for solved in (
        lambda x: softmax(x, y, 0.01, tolerance=1e-7),
        lambda x: least_squares(x, torch.eye(3, dtype=x.dtype)[y]).solutions([0.01])[0],
    ):
        torch.testing.assert_close(solved(x @ turn).scores(x @ turn), solved(x).scores(x), atol=1e-4, rtol=0)


def test_weights_are_of_the_features_as_they_came() -> None:
    x = features()
    y = labels(x, 3)
    leading = basis_of(x).leading(6)
    found = solve(leading, softmax_loss(y), 3, 0.01, curvature=0.5)
    assert found.weight.shape == (D, 3)
    inside = leading.rows @ found.inner + (found.bias + leading.mean @ found.weight)
    torch.testing.assert_close(found.scores(x), inside, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("constant", [slice(0, 4), slice(0, D)], ids=["some columns", "all columns"])
def test_constant_columns(constant: slice) -> None:
    x = features()
    y = labels(x, 3)
    x[:, constant] = 7.0
    shares = torch.bincount(y) / len(y)
    for found in (softmax(x, y, 0.01), *least_squares(x, torch.eye(3)[y]).solutions([0.01])):
        assert torch.isfinite(found.scores(x)).all()
        torch.testing.assert_close(found.weight[constant], torch.zeros_like(found.weight[constant]))
    if constant.stop == D:
        torch.testing.assert_close(softmax(x, y, 0.01).scores(x)[0].softmax(0), shares, atol=1e-3, rtol=0)


def test_the_basis_of_few_rows_is_found_among_the_rows() -> None:
    """With fewer rows than columns no more than rows - 1 axes have variance."""
    x = features(30, 200)
    basis = basis_of(x)
    assert basis.axes.shape == (200, 29)
    torch.testing.assert_close(basis.axes.T @ basis.axes, torch.eye(29), atol=1e-4, rtol=0)
    centred = x - x.mean(0)
    torch.testing.assert_close(centred @ basis.axes @ basis.axes.T, centred, atol=1e-3, rtol=0)


@pytest.mark.parametrize("n", [N, D - 2])
def test_a_basis_does_not_depend_on_how_its_columns_are_cut_into_blocks(n: int) -> None:
    x = exact(n)
    whole, cut = (Basis([Block.of(part) for part in x.split(sizes, dim=1)]) for sizes in ([D], [5, 1, D - 6]))
    torch.testing.assert_close(cut.variances, whole.variances)
    y = torch.randn(n, 2, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    mine, other = (LeastSquares(basis, Targets(y)).solutions([0.1])[0] for basis in (cut, whole))
    torch.testing.assert_close(mine.weight, other.weight)
    (rows, axes), (expected, turned) = ((each.rows, each.axes) for each in (cut.leading(4), whole.leading(4)))
    torch.testing.assert_close(rows @ axes.T, expected @ turned.T)
    some = [0, 4, 5, 9]
    torch.testing.assert_close(cut.columns(some), x[:, some] - x[:, some].mean(0))


def test_leading_rows_may_be_a_part_of_the_rows() -> None:
    x = features()
    y = labels(x, 3)
    whole = basis_of(x).leading(D)
    half = Leading(whole.rows[::2], whole.variances, whole.axes, whole.mean)
    found = solve(half, softmax_loss(y[::2]), 3, 0.05, curvature=0.5, tolerance=1e-6)
    alone = softmax(x[::2], y[::2], 0.05, tolerance=1e-6)
    torch.testing.assert_close(found.scores(x).softmax(1), alone.scores(x).softmax(1), atol=1e-3, rtol=0)
