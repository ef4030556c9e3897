"""The solver against scikit-learn, and against what a minimiser must be."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from taskheads.training.solver import Basis, Block, LeastSquares, Solution, Subspace, Targets, solve

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
    return solve(everywhere(x), softmax_loss(y), int(y.max()) + 1, penalty, curvature=0.5, **how)


def basis_of(x: torch.Tensor) -> Basis:
    return Basis([Block.of(x)])


def everywhere(x: torch.Tensor) -> Subspace:
    return basis_of(x).span(torch.eye(x.shape[1], dtype=x.dtype))


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
    found = solve(everywhere(x), loss, 1, penalty, curvature=0.25, tolerance=1e-6)
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
    run = partial(solve, everywhere(x), softmax_loss(y), 3, 0.01, tolerance=1e-8, max_steps=1000)
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
    subspace = everywhere(x)
    offset = lambda scores, extra: binary_cross_entropy_with_logits(scores[:, 0] - extra[0], y)  # noqa: E731
    plain = lambda scores, extra: binary_cross_entropy_with_logits(scores[:, 0], y)  # noqa: E731
    run = partial(solve, subspace, outputs=1, curvature=0.25, tolerance=1e-7)
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
        everywhere(x),
        lambda scores, extra: (scores[:, 0] - extra[0]).square().mean(),
        1,
        0.1,
        curvature=2,
        extra=start,
    )
    assert start[0] == 1
    assert not start[0].requires_grad


def test_the_span_of_all_directions_is_exact() -> None:
    x = features()
    whole = everywhere(x)
    assert whole.rows.shape == (N, D)
    torch.testing.assert_close(whole.axes.T @ whole.axes, torch.eye(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.rows @ whole.axes.T + whole.mean, x, atol=1e-4, rtol=0)
    covariance = whole.rows.T @ whole.rows / N
    torch.testing.assert_close(covariance, whole.variances.diag(), rtol=1e-3, atol=1e-4)


def test_a_span_holds_what_its_directions_give_however_they_depend_on_each_other() -> None:
    x = exact()
    directions = torch.randn(D, 3, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    first, second, third = directions.T
    dependent = torch.stack([first, -3 * first, 0 * first, second, first + second, 1e3 * third], dim=1)
    some = basis_of(x).span(dependent)
    assert some.axes.shape == (D, 3)
    inside = torch.linalg.lstsq(some.axes, directions).solution
    torch.testing.assert_close(some.rows @ inside, (x - x.mean(0)) @ directions)


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
    subspace = basis_of(x).span(torch.eye(D)[:, :6])
    found = solve(subspace, softmax_loss(y), 3, 0.01, curvature=0.5)
    assert found.weight.shape == (D, 3)
    assert not found.weight[6:].any()
    inside = subspace.rows @ found.inner + (found.bias + subspace.mean @ found.weight)
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


@pytest.mark.parametrize(("n", "d"), [(N, D), (30, 200)])
def test_shrinking_inverts_the_covariance_and_the_penalty(n: int, d: int) -> None:
    """Of few rows it is found among the rows, which are fewer than the columns."""
    x = exact(n, d)
    centred = x - x.mean(0)
    moment = centred.T @ torch.randn(n, 2, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    for penalty, found in zip((1.0, 1e-3), basis_of(x).shrunk(moment, (1.0, 1e-3)), strict=True):
        whole = centred.T @ centred / n + penalty * torch.eye(d, dtype=x.dtype)
        torch.testing.assert_close(whole @ found, moment)


@pytest.mark.parametrize("n", [N, D - 2])
def test_a_basis_does_not_depend_on_how_its_columns_are_cut_into_blocks(n: int) -> None:
    x = exact(n)
    whole, cut = (Basis([Block.of(part) for part in x.split(sizes, dim=1)]) for sizes in ([D], [5, 1, D - 6]))
    y = torch.randn(n, 2, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    mine, other = (LeastSquares(basis, Targets(y)).solutions([0.1])[0] for basis in (cut, whole))
    torch.testing.assert_close(mine.weight, other.weight)
    directions = torch.randn(D, 4, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    (rows, axes), (expected, turned) = (
        (each.rows, each.axes) for each in (cut.span(directions), whole.span(directions))
    )
    torch.testing.assert_close(rows @ axes.T, expected @ turned.T)
    some = [0, 4, 5, 9]
    torch.testing.assert_close(cut.columns(some), x[:, some] - x[:, some].mean(0))


def test_the_rows_may_be_a_part_of_all() -> None:
    x = features()
    y = labels(x, 3)
    whole = everywhere(x)
    half = Subspace(whole.rows[::2], whole.variances, whole.axes, whole.mean)
    found = solve(half, softmax_loss(y[::2]), 3, 0.05, curvature=0.5, tolerance=1e-6)
    alone = softmax(x[::2], y[::2], 0.05, tolerance=1e-6)
    torch.testing.assert_close(found.scores(x).softmax(1), alone.scores(x).softmax(1), atol=1e-3, rtol=0)
