"""Detectors: LoRA as it is, and what a majority of them gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edit import made
from taskheads.edits.low_rank.voting import majority_vote
from taskheads.edits.maps import by_name
from taskheads.errors import ConfigError
from tests.edits.planted import backbone_of, stirred
from tests.edits.test_known_edits import ROWS, outputs

pytestmark = pytest.mark.method("lora_roberta_mgt_detection")


def test_merged_weights_do_what_the_adapter_does_with_as_many_numbers_as_said() -> None:
    backbone = backbone_of("roberta")
    edit = stirred(made("lora_roberta_mgt_detection", backbone, ["machine"], {"rank": 3}))
    assert {sum(p.numel() for p in delta.parameters()) for delta in by_name(edit.maps).values()} == {3 * 64}
    expected = outputs(backbone, edit)
    with torch.no_grad():
        for name, weight in edit.fold(backbone, "machine").items():
            backbone.model.get_parameter(name).copy_(weight)
        found = backbone.run(RaggedBatch(ROWS))["output"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("voters", [1, 3, 7])
def test_independent_voters_are_right_as_often_as_the_binomial_tail_says(voters: int) -> None:
    generator = np.random.default_rng(0)
    rows, p = 40_000, 0.7
    truth = generator.integers(0, 2, rows)
    right = generator.random((voters, rows)) < p
    found = (majority_vote(np.where(right, truth, 1 - truth)) == truth).mean()
    expected = binom.sf(voters // 2, voters, p)
    assert found == pytest.approx(expected, abs=4 * (0.25 / rows) ** 0.5)


def test_among_several_labels_the_earliest_of_the_commonest_decides() -> None:
    votes = [[2, 0, 3, 1], [1, 0, 2, 4], [1, 2, 1, 4], [0, 2, 0, 3], [2, 5, 4, 4]]
    assert majority_vote(votes).tolist() == [2, 0, 3, 4]


def test_a_vote_that_can_tie_is_refused() -> None:
    with pytest.raises(ConfigError, match="odd"):
        majority_vote([[0, 1], [1, 1]])
