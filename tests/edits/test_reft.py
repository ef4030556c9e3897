"""LoReFT changes what it says in the subspace that it learns, at the positions that it names."""

from __future__ import annotations

import pytest
import torch

from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited
from taskheads.edits.low_rank.reft import Intervention, positions
from taskheads.edits.maps import by_name
from taskheads.errors import ConfigError
from tests.backbone.test_sites import LENGTHS, rows
from tests.edits.planted import backbone_of, stirred
from tests.edits.test_known_edits import ROWS, train

pytestmark = pytest.mark.method("reft")


def test_inside_the_subspace_h_is_what_it_says_and_outside_it_stays() -> None:
    each = stirred(Intervention(16, 3), by=0.5).double()
    h = torch.randn(7, 16, dtype=torch.float64)
    edited, basis = each(h), each.basis()
    torch.testing.assert_close(basis.T @ basis, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
    # R h' = W h + b, and (1 - RᵀR) h' = (1 - RᵀR) h: equation 2 of the paper.
    torch.testing.assert_close(edited @ basis, h @ each.source + each.offset, rtol=0, atol=1e-12)
    outside = torch.eye(16, dtype=torch.float64) - basis @ basis.T
    torch.testing.assert_close(edited @ outside, h @ outside, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("first", "last"), [(1, 0), (0, 2), (2, 2), (4, 9)])
@torch.inference_mode()
def test_the_named_positions_are_edited_and_no_others(first: int, last: int) -> None:
    """One layer, read where it is edited, against a loop over tokens."""
    backbone = backbone_of("bert")
    options = {"first": first, "last": last, "layers": [1], "rank": 2}
    edit = stirred(made("reft", backbone, ["first"], options))
    (each,) = by_name(edit.interventions).values()
    batch = RaggedBatch(rows())
    plain = backbone.run(batch, ["layers.1.output"])["layers.1.output"].split(LENGTHS)
    found = Edited(backbone, {"first": edit}, "first").run(batch, ["layers.1.output"])["layers.1.output"]
    changed = []
    for row, mine in zip(plain, found.split(LENGTHS), strict=True):
        for place, (h, token) in enumerate(zip(row, mine, strict=True)):
            if place < first or place >= len(row) - last:
                torch.testing.assert_close(token, each(h[None])[0], rtol=1e-5, atol=1e-6)
                changed.append(not torch.equal(token, h))
            else:
                assert torch.equal(token, h)
    assert any(changed)


def test_positions_of_short_and_empty_rows_stand_once() -> None:
    assert positions([5, 1, 0, 3, 2], first=2, last=1) == [0, 1, 4, 5, 6, 7, 8, 9, 10]
    assert positions([4, 2], first=0, last=1) == [3, 5]


def test_a_planted_edit_is_learned() -> None:
    """The target is the backbone's output under another LoReFT of the same rank."""
    backbone = backbone_of("bert")
    options = {"rank": 1, "layers": [1], "first": 2, "last": 0}
    truth = stirred(made("reft", backbone, ["first"], options), seed=3, by=0.5)
    batch = RaggedBatch(ROWS)
    edited = lambda edit: Edited(backbone, {"first": edit}, "first")  # noqa: E731
    with torch.no_grad():
        target, before = edited(truth).run(batch)["output"], backbone.run(batch)["output"]
    edit = made("reft", backbone, ["first"], options)
    edit.lr = 2e-2

    def loss(some: Edited) -> torch.Tensor:
        return (some.run(batch)["output"] - target).square().mean()

    train(edited(edit), edit, loss, 150)
    assert loss(edited(edit)) < 0.05 * (before - target).square().mean()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 33}, "rank of 33"),
        ({"first": 0, "last": 0}, "no token"),
        ({"layers": [5]}, "no layer 5"),
    ],
)
def test_mistakes_are_named(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made("reft", backbone_of("bert"), ["first"], options)


@torch.no_grad()
def test_in_half_precision_it_is_the_same_to_rounding() -> None:
    backbone = backbone_of("bert")
    edited = Edited(backbone, {"first": stirred(made("reft", backbone, ["first"]))}, "first")
    batch = RaggedBatch(ROWS)
    expected = edited.run(batch)["output"]
    with torch.autocast("cpu", torch.bfloat16):
        found = edited.run(batch)["output"]
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)
