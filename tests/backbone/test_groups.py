"""Rows brought together: every token has its place, and padded groups are the cheapest there are."""

import itertools

import numpy as np
import pytest
import torch

from taskheads.backbone import groups
from taskheads.backbone.groups import Arrangement, of_equal_length, of_one_kind, of_similar_length

CPU = torch.device("cpu")


def arrangements(lengths: list[int]) -> list[Arrangement]:
    return [of_equal_length(lengths, [0] * len(lengths), CPU), of_similar_length(lengths, CPU)]


@pytest.mark.parametrize("seed", range(4))
def test_a_row_stands_in_its_group_and_comes_back(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(0, 90, 60).tolist()
    tokens = torch.randn(sum(lengths), 2, 3)
    rows = tokens.split(lengths)
    for arranged in arrangements(lengths):
        parts = arranged.split(tokens)
        assert (
            sorted(np.concatenate([group.rows for group in arranged.groups]))
            == np.flatnonzero(lengths).tolist()
        )
        for group, part in zip(arranged.groups, parts, strict=True):
            blocks = part.view(group.count, group.length, 2, 3)
            for at, row in enumerate(group.rows):
                own = lengths[row]
                assert torch.equal(blocks[at, :own], rows[row])
                if group.filled is None:
                    assert own == group.length
                else:
                    assert group.filled[at].tolist() == [place < own for place in range(group.length)]
        assert torch.equal(arranged.taken(parts), tokens)


def test_rows_that_are_sorted_already_stay_where_they_are() -> None:
    arranged = of_equal_length([0, 2, 2, 5], [0] * 4, CPU)
    assert arranged.order is None
    assert [(group.count, group.length) for group in arranged.groups] == [(2, 2), (1, 5)]


@pytest.mark.parametrize("price", [1, 60, 400, 10**6])
def test_rows_are_padded_as_is_cheapest(price: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_PAIRS_A_GROUP", price)
    lengths = sorted(np.random.default_rng(1).integers(1, 25, 9).tolist())

    def cost(cuts: tuple[int, ...]) -> int:
        parts = np.split(np.asarray(lengths), cuts)
        return sum(price + len(part) * int(part[-1]) ** 2 for part in parts)

    every = [cuts for k in range(len(lengths)) for cuts in itertools.combinations(range(1, len(lengths)), k)]
    found = of_similar_length(lengths, CPU).groups
    assert sum(price + group.count * group.length**2 for group in found) == min(map(cost, every))


def test_rows_of_one_kind_stand_together_and_those_of_none_nowhere() -> None:
    lengths, kinds = [3, 4, 0, 6, 5, 2, 7], [8, 8, 8, None, 8, 4, 8]
    arranged = of_one_kind(lengths, kinds, CPU)
    assert [(group.rows.tolist(), group.length) for group in arranged.groups] == [
        ([0], 3),
        ([1, 4, 6], 7),
        ([5], 2),
    ]
    tokens = torch.arange(sum(lengths))
    assert arranged.tokens is not None
    assert arranged.tokens.tolist() == [at for at in range(27) if not 7 <= at < 13]
    assert torch.equal(arranged.taken(arranged.split(tokens)), tokens[arranged.tokens])


def test_no_rows_have_no_groups() -> None:
    for arranged in arrangements([0, 0]):
        assert arranged.groups == []
        assert not arranged.split(torch.empty(0, 4))
