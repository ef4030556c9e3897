from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from taskheads.backbone.reads import Read
from taskheads.heads import Request, head_for
from tests.heads.planted import MEAN, make_task, normal

WIDTH = 6
OTHER = Read("layers.0.output", "mean")


def sides(n: int = 20) -> list[dict[Read, torch.Tensor]]:
    return [
        {read: normal(n, WIDTH, seed=10 * side + i) for i, read in enumerate((MEAN, OTHER))}
        for side in (0, 1)
    ]


def pair_head(labels=(), reads=(MEAN, OTHER), **options):
    task = make_task("pair", labels, **options)
    head = head_for(task)(task, reads, WIDTH)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    return head


@pytest.mark.method("infersent_pair")
def test_features_are_those_of_the_two_unit_vectors() -> None:
    (u, v) = (normalize(side[MEAN], dim=-1) for side in sides())
    head = pair_head("ab", [MEAN])
    found = head.gather([{MEAN: u}, {MEAN: v}])
    cosine, apart, product, first, second = found.split([1, WIDTH, WIDTH, WIDTH, WIDTH], dim=1)
    scale = WIDTH**0.5
    torch.testing.assert_close(cosine[:, 0], cosine_similarity(u, v) * scale)
    torch.testing.assert_close(apart, (u - v).abs() * scale)
    torch.testing.assert_close(product, u * v * WIDTH)
    torch.testing.assert_close(torch.stack([first, second]), torch.stack([u, v]) * scale)


@pytest.mark.method("infersent_pair")
def test_similarity_is_symmetric_to_the_last_bit() -> None:
    head, (first, second) = pair_head(), sides()
    assert torch.equal(head(head.gather([first, second])), head(head.gather([second, first])))


def test_labels_have_a_direction() -> None:
    head, (first, second) = pair_head(["entails", "not"]), sides()
    there, back = head(head.gather([first, second])), head(head.gather([second, first]))
    assert not torch.allclose(there, back, atol=0.1)


def test_the_length_of_a_vector_does_not_matter() -> None:
    head, (first, second) = pair_head(), sides()
    longer = {read: 7 * values for read, values in first.items()}
    torch.testing.assert_close(head.gather([longer, second]), head.gather([first, second]))


@pytest.mark.parametrize("labels", [(), ("a", "b")])
def test_one_row_of_both_texts(labels: tuple[str, ...]) -> None:
    head = pair_head(labels, encoding="joint")
    assert head.requests == [Request((0, 1), "pair")]
    (both, _) = sides()
    torch.testing.assert_close(head.gather([both]), torch.cat([both[MEAN], both[OTHER]], dim=1))


def test_two_encodings_are_the_default() -> None:
    assert pair_head().requests == [Request((0,), "text"), Request((1,), "text")]
    assert pair_head(encoding="two").requests == pair_head().requests


def test_a_vector_of_zeros_is_no_nan() -> None:
    head = pair_head("ab", [MEAN])
    zero = {MEAN: torch.zeros(2, WIDTH)}
    assert torch.isfinite(head(head.gather([zero, zero]))).all()
