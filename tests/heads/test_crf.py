"""The linear chain against every path there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from taskheads.heads.crf import Chains, log_likelihood, viterbi
from tests.heads.planted import generator, normal

TAGS = 3
RAGGED = [[4, 1, 3, 2], [1, 1, 1], [2, 0, 5, 0, 1], [5], [0, 3, 3, 0]]


def chain(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    words = sum(lengths)
    tags = torch.randint(TAGS, (words,), generator=generator(seed + 1))
    return (
        normal(words, TAGS, seed=seed).double(),
        tags,
        normal(TAGS + 1, TAGS, seed=seed + 2).double(),
    )


def path_scores(scores: torch.Tensor, transitions: torch.Tensor) -> dict[tuple[int, ...], torch.Tensor]:
    """Every path of one row and its score."""
    found = {}
    for path in itertools.product(range(TAGS), repeat=len(scores)):
        before = (TAGS, *path)[: len(path)]
        found[path] = sum(
            transitions[b, tag] + scores[t, tag] for t, (b, tag) in enumerate(zip(before, path, strict=True))
        )
    return found


def rows(values: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
    return list(values.split(lengths))


def brute_force(
    scores: torch.Tensor, tags: torch.Tensor, transitions: torch.Tensor, lengths: list[int]
) -> torch.Tensor:
    likely = []
    for row in np.argsort(-np.asarray(lengths), kind="stable"):
        if lengths[row]:
            paths = path_scores(rows(scores, lengths)[row], transitions)
            own = paths[tuple(rows(tags, lengths)[row].tolist())]
            likely.append(own - torch.stack(list(paths.values())).logsumexp(0))
    return torch.stack(likely)


@pytest.mark.method("linear_chain_crf")
@pytest.mark.parametrize("lengths", RAGGED, ids=str)
def test_the_likelihood_is_that_of_all_paths(lengths: list[int]) -> None:
    scores, tags, transitions = chain(lengths)
    found = log_likelihood(scores, tags, transitions, lengths)
    torch.testing.assert_close(found, brute_force(scores, tags, transitions, lengths))


@pytest.mark.method("linear_chain_crf")
def test_the_gradient_is_that_of_all_paths() -> None:
    lengths = [3, 1, 4]
    scores, tags, transitions = (
        value.requires_grad_(value.is_floating_point()) for value in chain(lengths, seed=5)
    )
    found = torch.autograd.grad(
        log_likelihood(scores, tags, transitions, lengths).sum(), [scores, transitions]
    )
    expected = torch.autograd.grad(
        brute_force(scores, tags, transitions, lengths).sum(), [scores, transitions]
    )
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(
        lambda s, t: log_likelihood(s, tags, t, lengths), (scores, transitions), atol=1e-6
    )


@pytest.mark.parametrize("lengths", RAGGED, ids=str)
def test_the_best_path_is_the_best_of_all(lengths: list[int]) -> None:
    for seed in range(5):
        scores, _, transitions = chain(lengths, seed=seed)
        found = viterbi(scores, transitions, lengths)
        assert found.dtype == np.int64
        for row, mine in zip(rows(scores, lengths), rows(torch.from_numpy(found), lengths), strict=True):
            paths = path_scores(row, transitions)
            assert tuple(mine.tolist()) == max(paths, key=lambda path: paths[path])


def test_a_row_does_not_depend_on_the_others() -> None:
    lengths = [4, 1, 3, 2, 4]
    scores, tags, transitions = (
        value.float() if value.is_floating_point() else value for value in chain(lengths)
    )
    together = viterbi(scores, transitions, lengths)
    likely = log_likelihood(scores, tags, transitions, lengths)
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    starts = np.cumsum([0, *lengths])
    for row, size in enumerate(lengths):
        words = slice(starts[row], starts[row] + size)
        assert viterbi(scores[words], transitions, [size]).tolist() == together[words].tolist()
        alone = log_likelihood(scores[words], tags[words], transitions, [size])
        torch.testing.assert_close(alone[0], likely[order.index(row)])


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]], ids=str)
def test_rows_without_words(lengths: list[int]) -> None:
    scores = torch.empty(0, TAGS, requires_grad=True)
    transitions = torch.zeros(TAGS + 1, TAGS, requires_grad=True)
    tags = torch.empty(0, dtype=torch.int64)
    assert viterbi(scores.detach(), transitions.detach(), lengths).tolist() == []
    found = log_likelihood(scores, tags, transitions, lengths)
    assert found.shape == (0,)
    found.sum().backward()


def test_uniform_scores_leave_all_paths_alike() -> None:
    found = log_likelihood(
        torch.zeros(6, TAGS), torch.zeros(6, dtype=torch.int64), torch.zeros(TAGS + 1, TAGS), [2, 4]
    )
    torch.testing.assert_close(found, torch.tensor([4.0, 2.0]) * -np.log(TAGS), rtol=1e-5, atol=0)


def test_chains_count_the_rows_that_go_on() -> None:
    chains = Chains.of([2, 0, 3, 2])
    assert chains.order.tolist() == [2, 0, 3, 1]
    assert chains.starts.tolist() == [2, 0, 5, 2]
    assert chains.going == [3, 3, 1]
