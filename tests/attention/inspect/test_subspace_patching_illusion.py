"""A direction that only seems to carry a feature is told from one that does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskheads.attention.inspect.subspace_patching_illusion import (
    Illusion,
    along,
    halves,
    subspace_patching_illusion,
)
from taskheads.attention.measures import logit_difference
from taskheads.attention.planted import Planted, plant
from taskheads.attention.planted.wiring import ANSWER, LETTERS, OPENING, TOKEN, one_hots, place
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.edits.maps import weight_of

SITE = "layers.1.mlp.hidden"
# In the hidden layer of a feed-forward block: a unit that knows and says nothing, one that would say and
# knows nothing, and one that does both.
IDLE, DORMANT, FAITHFUL = range(3)
ASKED, OTHER = LETTERS[3], LETTERS[7]


@pytest.mark.method("subspace_patching_illusion")
def test_the_distilled_example() -> None:
    # The feature is -1 or 1 on the first axis, the output reads the second, where nothing ever stands.
    reads = torch.tensor([[0.0], [1.0], [0.0]])
    hidden, source = torch.tensor([[-1.0, 0.0, 0.3]]), torch.tensor([[1.0, 0.0, 0.7]])
    direction = torch.tensor([1.0, 1.0, 0.0]) / 2**0.5
    unseen, seen = halves(direction, reads)
    assert unseen.nonzero().tolist() == [[0]]
    assert seen.nonzero().tolist() == [[1]]
    outputs = [along(hidden, source, each) @ reads for each in (direction, seen, unseen)]
    torch.testing.assert_close(outputs, [torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1)])

    # Where the output reads the feature itself, its direction has the same effect without its other part.
    reads = torch.tensor([[2.0], [0.0], [0.0]])
    unseen, seen = halves(torch.tensor([0.6, 0.0, 0.8]), reads)
    torch.testing.assert_close(along(hidden, source, seen) @ reads, source @ reads)
    assert torch.equal(along(hidden, source, unseen) @ reads, hidden @ reads)


@pytest.mark.method("subspace_patching_illusion")
def test_the_halves_are_at_right_angles_and_one_of_them_is_not_seen() -> None:
    torch.manual_seed(0)
    downstream = torch.randn(12, 5, dtype=torch.float64)
    direction = torch.randn(12, dtype=torch.float64)
    unseen, seen = halves(direction, downstream)
    torch.testing.assert_close(unseen + seen, direction)
    assert (unseen @ downstream).abs().max() < 1e-12
    assert abs(unseen @ seen) < 1e-12
    # A square map of full rank sees all there is.
    unseen, seen = halves(direction, torch.randn(12, 12, dtype=torch.float64))
    assert not unseen.any()


@pytest.mark.method("subspace_patching_illusion")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_an_illusion_and_a_faithful_direction_in_a_feed_forward_block(architecture: str) -> None:
    rows, others = (
        RaggedBatch([Encoded(np.array([OPENING, *before, token])) for before in ([2, 3], [8], [4, 6, 11])])
        for token in (OTHER, ASKED)
    )
    units = torch.eye(8)

    def patched(planted: Planted, direction: torch.Tensor) -> Illusion:
        name = planted.backbone.layout.maps[1].mlp[-1]
        measure = logit_difference(planted.head, [ASKED] * 3, [OTHER] * 3)
        return subspace_patching_illusion(
            planted.backbone,
            rows,
            others,
            measure,
            site=SITE,
            direction=direction,
            downstream=weight_of(planted.backbone, name).T,
        )

    illusion = patched(wired(architecture, says=DORMANT), units[IDLE] + units[DORMANT])
    assert illusion.whole.min() > 1
    assert not illusion.row.any()
    assert not illusion.null.any()
    assert illusion.kept == 0

    planted = wired(architecture, says=FAITHFUL)
    faithful = patched(planted, units[FAITHFUL] + 0.5 * units[IDLE])
    assert faithful.row.min() > 1
    torch.testing.assert_close(faithful.row, patched(planted, units[FAITHFUL]).whole)
    assert not faithful.null.any()


def test_only_the_tokens_that_are_named_are_patched() -> None:
    planted = wired("gpt2", says=FAITHFUL)
    rows, others = (RaggedBatch([Encoded(np.array([OPENING, 5, token]))]) for token in (OTHER, ASKED))
    found = subspace_patching_illusion(
        planted.backbone,
        rows,
        others,
        logit_difference(planted.head, [ASKED], [OTHER]),
        site=SITE,
        direction=torch.eye(8)[FAITHFUL],
        downstream=torch.eye(8),
        tokens=torch.tensor([True, True, False]),
    )
    assert not found.whole.any()


@torch.no_grad()
def wired(architecture: str, says: int) -> Planted:
    """Two hidden units of layer 1's feed-forward block see the asked token, and one unit is heard: the answer
    is the asked token where it is above 0, and the other where it is below."""
    planted = plant(architecture, [])  # type: ignore[arg-type]
    names = planted.backbone.layout.maps[1].mlp
    sees, answers = torch.zeros(8, 256), torch.zeros(256, 8)
    sees[[IDLE, FAITHFUL]] = place(TOKEN, one_hots()[[ASKED]])
    answers[:, says] = place(ANSWER, one_hots()[[ASKED]] - one_hots()[[OTHER]])[0]
    for name in names[:-1]:
        weight_of(planted.backbone, name).copy_(sees)
    weight_of(planted.backbone, names[-1]).copy_(answers)
    return planted
