"""How alike tasks are: by their gradients, by their representations; and which to group for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from taskheads.methods import method

# Rows whose float64 copies are held at a time.
_ROWS = 4096

# The mean silhouette up to which a clustering shows "no substantial structure" (Kaufman and Rousseeuw 1990,
# table 4 of chapter 2).
_NO_STRUCTURE = 0.25


@method("gradient_cosine", family="sharing", paper="arXiv:1812.02224")
def cosines(gramian: torch.Tensor) -> np.ndarray:
    """Compare tasks by the cosine of their gradients in the shared parameters: 1 where a step for one is a
    step for the other, below 0 where it undoes it (Du et al. 2018, section 3).

    Parameters
    ----------
    gramian: inner products of the tasks' gradients, [T, T]. Gramians of several steps may be added up: the
        sum is that of the gradients laid end to end. A task without rows in some of the steps then looks less
        like the others than it is.

    Returns
    -------
    float64 [T, T], symmetric, 1 on the diagonal. A task without gradient is like no other: 0.
    """
    inner = gramian.detach().double().cpu().numpy()
    lengths = np.sqrt(np.diagonal(inner).clip(min=0))
    product = np.outer(lengths, lengths)
    cosine = np.divide(inner, product, out=np.zeros_like(product), where=product > 0)
    cosine = ((cosine + cosine.T) / 2).clip(-1, 1)
    np.fill_diagonal(cosine, 1.0)
    return cosine


@method("linear_cka", family="sharing", paper="arXiv:1905.00414")
def linear_cka(first: torch.Tensor, second: torch.Tensor) -> float:
    """Compare two representations of the same rows by linear centred kernel alignment, which no rotation,
    shift or scale of either changes (Kornblith et al. 2019, section 3).

    It is |Y'X|² / (|X'X| |Y'Y|) in Frobenius norms of the centred features, which equals the normalised HSIC
    of the two linear kernels.

    Parameters
    ----------
    first, second: features [n, p] and [n, q] of the same n rows. Beside them at most [p, q] and a block of
        rows are held, or two kernels [n, n] where the rows are fewer than the features.

    Returns
    -------
    A number from 0 to 1; 0 where one of them is the same for all rows.

    Raises
    ------
    ValueError: the numbers of rows differ.
    """
    if len(first) != len(second):
        raise ValueError(f"the same rows are needed on both sides: {len(first)} and {len(second)}")
    own = _cross_norm(first, first) * _cross_norm(second, second)
    return float(min(1.0, _cross_norm(first, second) ** 2 / own)) if own > 0 else 0.0


def representation_similarity(representations: Sequence[torch.Tensor]) -> np.ndarray:
    """`linear_cka` of every two of T representations [n, width] of the same rows: float64 [T, T]."""
    count = len(representations)
    similarity = np.eye(count)
    for i in range(count):
        for j in range(i):
            similarity[i, j] = similarity[j, i] = linear_cka(representations[i], representations[j])
    return similarity


@method(
    "silhouette_grouping",
    family="sharing",
    paper="Rousseeuw 1987, Silhouettes, doi:10.1016/0377-0427(87)90125-7",
)
def suggested_groups(similarity: np.ndarray) -> list[list[int]]:
    """Group tasks that are alike: average-linkage clustering of 1 - similarity, cut into the number of groups
    with the highest mean silhouette.

    All stay together where no cut shows structure (a mean silhouette above 0.25: Kaufman and Rousseeuw 1990,
    chapter 2), except that groups which are unlike on average, with a similarity below 0, are never joined.

    Parameters
    ----------
    similarity: symmetric [T, T], 1 on the diagonal: `cosines`, or `representation_similarity`.

    Returns
    -------
    The tasks' numbers group by group, in ascending order; the groups by their first task.
    """
    from scipy.cluster.hierarchy import average, fcluster
    from scipy.spatial.distance import squareform

    count = len(similarity)
    if count < 2:
        return [[i] for i in range(count)]
    distance = 1.0 - (similarity + similarity.T) / 2
    np.fill_diagonal(distance, 0.0)
    tree = average(squareform(distance.clip(min=0), checks=False))
    best = fcluster(tree, 1.0, criterion="distance")
    highest = _NO_STRUCTURE
    for groups in range(best.max() + 1, count):
        labels = fcluster(tree, groups, criterion="maxclust")
        if (found := silhouette(distance, labels)) > highest:
            best, highest = labels, found
    members = [np.flatnonzero(best == label).tolist() for label in np.unique(best)]
    return sorted(members)


def silhouette(distance: np.ndarray, labels: np.ndarray) -> float:
    """The mean over members of (b - a) / max(a, b), where a is the mean distance to the others of its own
    group, b that to the nearest other group; a member alone counts 0. It is 0 where there is one group.

    distance: [T, T], 0 on the diagonal; labels: of what group each is, int [T].
    """
    groups = np.unique(labels)
    if len(groups) < 2:
        return 0.0
    belongs = labels[:, None] == groups
    sizes = belongs.sum(0)
    total = distance @ belongs
    own = belongs.argmax(1)
    rows = np.arange(len(labels))
    inside = total[rows, own] / np.maximum(sizes[own] - 1, 1)
    outside = np.where(belongs, np.inf, total / sizes).min(1)
    widest = np.maximum(inside, outside)
    widths = np.divide(outside - inside, widest, out=np.zeros(len(labels)), where=widest > 0)
    return float(np.where(sizes[own] > 1, widths, 0.0).mean())


def _cross_norm(first: torch.Tensor, second: torch.Tensor) -> float:
    """|X'Y| of the centred features; from the kernels [n, n] where the rows are fewer than the features."""
    n = len(first)
    if n < min(first.shape[1], second.shape[1]):
        x, y = (each.double() - each.double().mean(0) for each in (first, second))
        return float((x @ x.T * (y @ y.T)).sum().clamp_min(0).sqrt())
    means = [each.mean(0, dtype=torch.float64) for each in (first, second)]
    cross = torch.zeros(first.shape[1], second.shape[1], dtype=torch.float64, device=first.device)
    for start in range(0, n, _ROWS):
        x, y = (
            each[start : start + _ROWS].double() - mean
            for each, mean in zip((first, second), means, strict=True)
        )
        cross.addmm_(x.T, y)
    return float(cross.norm())
