"""Likeness of tasks: identities of the measures, and planted groups that are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_score

from taskheads.sharing import similarity
from taskheads.sharing.similarity import (
    cosines,
    linear_cka,
    representation_similarity,
    silhouette,
    suggested_groups,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed))[0]


def planted(sizes: list[int], inside: float, outside: float) -> np.ndarray:
    group = np.repeat(np.arange(len(sizes)), sizes)
    found = np.where(group[:, None] == group, inside, outside)
    np.fill_diagonal(found, 1.0)
    return found


@pytest.mark.method("gradient_cosine")
def test_cosines_are_those_of_the_gradients_laid_end_to_end() -> None:
    steps = [normal(4, 30, seed=seed) for seed in range(3)]
    laid = torch.cat(steps, dim=1)
    unit = laid / laid.norm(dim=1, keepdim=True)
    found = cosines(sum(step @ step.T for step in steps))
    np.testing.assert_allclose(found, (unit @ unit.T).numpy(), atol=1e-12)
    assert (found == found.T).all()


@pytest.mark.method("gradient_cosine")
def test_the_size_of_a_loss_changes_no_cosine() -> None:
    gradients = normal(3, 20)
    scaled = gradients * torch.tensor([[1.0], [1e-6], [1e6]])
    np.testing.assert_allclose(cosines(scaled @ scaled.T), cosines(gradients @ gradients.T), atol=1e-12)


def test_a_task_without_gradient_is_like_no_other() -> None:
    gradients = normal(3, 20)
    gradients[1] = 0
    found = cosines(gradients @ gradients.T)
    assert found[1].tolist() == [0.0, 1.0, 0.0]
    assert found[0, 2] != 0


@pytest.mark.method("linear_cka")
@pytest.mark.parametrize(("n", "p", "q"), [(50, 7, 5), (50, 7, 80), (20, 60, 40), (33, 33, 33)])
def test_cka_is_the_normalised_hsic_of_linear_kernels(n: int, p: int, q: int) -> None:
    x = normal(n, p) + 3
    y = x[:, :3] @ normal(3, q, seed=1) + normal(n, q, seed=2)
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    k, m = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre
    hsic = (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()
    assert linear_cka(x, y) == pytest.approx(float(hsic), abs=1e-12)
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), abs=1e-12)


@pytest.mark.method("linear_cka")
def test_no_rotation_shift_or_scale_changes_cka() -> None:
    x, y = normal(40, 6), normal(40, 9, seed=1)
    moved = 7 * x @ rotation(6) + normal(6, seed=3)
    assert linear_cka(x, moved) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(moved, y) == pytest.approx(linear_cka(x, y), abs=1e-12)
    # But a map that stretches some directions does: what tells it from canonical correlation.
    assert linear_cka(x, x @ torch.diag(torch.tensor([30.0, 1, 1, 1, 1, 1], dtype=torch.float64))) < 0.9


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Far from the origin, where one pass of sums of squares would lose the digits.
    x, y = (normal(100, 5) + 1e4).float(), normal(100, 5, seed=1).float()
    whole = linear_cka(x, y)
    monkeypatch.setattr(similarity, "_ROWS", 7)
    assert linear_cka(x, y) == pytest.approx(whole, abs=1e-12)


def test_orthogonal_and_constant_representations() -> None:
    axes = rotation(12)
    axes = axes - axes.mean(0)
    x = torch.linalg.qr(axes[:, :8])[0]
    assert linear_cka(x[:, :4], x[:, 4:]) == pytest.approx(0.0, abs=1e-12)
    assert linear_cka(x, torch.ones(12, 3)) == 0.0


def test_every_two_representations_are_compared() -> None:
    several = [normal(30, width, seed=width) for width in (3, 5, 8)]
    found = representation_similarity(several)
    assert np.diagonal(found).tolist() == [1.0, 1.0, 1.0]
    assert found[0, 2] == found[2, 0] == linear_cka(several[2], several[0])


def test_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 4"):
        linear_cka(normal(3, 2), normal(4, 2))


@pytest.mark.method("silhouette_grouping")
@pytest.mark.parametrize("sizes", [[3, 3], [2, 4, 3], [5, 1, 2], [2, 2, 2, 2]])
def test_planted_groups_are_found_whatever_the_order(sizes: list[int]) -> None:
    draw = np.random.default_rng(sum(sizes))
    found = planted(sizes, 0.8, 0.1)
    noise = draw.normal(scale=0.03, size=found.shape)
    found = np.where(found == 1, 1.0, found + (noise + noise.T) / 2)
    order = draw.permutation(len(found))
    group = np.repeat(np.arange(len(sizes)), sizes)[order]
    expected = sorted(np.flatnonzero(group == each).tolist() for each in range(len(sizes)))
    assert suggested_groups(found[np.ix_(order, order)]) == expected


@pytest.mark.method("silhouette_grouping")
@pytest.mark.parametrize("level", [0.0, 0.3, 0.9])
def test_without_structure_there_is_one_group(level: float) -> None:
    draw = np.random.default_rng(1)
    noise = draw.uniform(0, 0.05, (8, 8))
    found = level + (noise + noise.T) / 2
    np.fill_diagonal(found, 1.0)
    assert suggested_groups(found) == [list(range(8))]
    assert suggested_groups(planted([5], level, level)) == [[0, 1, 2, 3, 4]]


def test_tasks_that_undo_each_other_stay_apart() -> None:
    assert suggested_groups(np.array([[1.0, -0.4], [-0.4, 1.0]])) == [[0], [1]]
    assert suggested_groups(np.array([[1.0, 0.4], [0.4, 1.0]])) == [[0, 1]]
    assert suggested_groups(planted([1, 1, 1], 1.0, -0.3)) == [[0], [1], [2]]


def test_one_task_and_none() -> None:
    assert suggested_groups(np.ones((1, 1))) == [[0]]
    assert suggested_groups(np.ones((0, 0))) == []


def test_the_silhouette_is_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    points = draw.normal(size=(12, 3))
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 1, 0])  # group 3 has one member
    expected = silhouette_score(distance, labels, metric="precomputed")
    assert silhouette(distance, labels) == pytest.approx(expected, abs=1e-12)
    assert silhouette(distance, np.zeros(12, int)) == 0.0
