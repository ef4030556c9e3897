"""PH3: without its memory heads a model says what the context says, and the other way round."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from taskheads.attention.conflicts import share
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.planted.wiring import OPENING
from taskheads.attention.steer.ph3_head_pruning import HeadPruning, path_effects
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import ConfigError
from tests.attention.steer.torn import torn
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close


def without_subjects(rows: RaggedBatch) -> RaggedBatch:
    """The rows with a letter wherever a subject stands."""
    ids = rows.ids.where(rows.ids < 20, 5).numpy()
    return RaggedBatch([Encoded(part) for part in np.split(ids, np.cumsum(rows.lengths)[:-1])])


@pytest.mark.method("ph3_head_pruning")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_what_is_left_answers_and_random_heads_are_not_missed(architecture: str) -> None:
    planted, heads, conflict = torn(architecture, 20)
    assert conflict.batch.ids[0] == OPENING
    scores = path_effects(heads, planted.head, {without_subjects(conflict.batch): conflict})
    assert scores.top(1) == (planted.heads["context"],)
    assert scores.top(1, smallest=True) == (planted.heads["memory"],)

    def shares(changing: HeadPruning | None) -> tuple[float, float]:
        context, memory = (
            share(planted.backbone, planted.head, conflict, source, changing)
            for source in ("context", "memory")
        )
        return context, memory

    before = shares(None)
    assert 0.2 < before[0] < 0.8
    assert sum(before) == 1
    assert shares(HeadPruning.fit(scores, "context", 1)) == (1.0, 0.0)
    assert shares(HeadPruning.fit(scores, "memory", 1)) == (0.0, 1.0)
    draw = np.random.default_rng(0)
    rest = [head for head in heads.which() if head not in planted.heads.values()]
    for _ in range(3):
        assert shares(HeadPruning([rest[n] for n in draw.permutation(len(rest))[:3]])) == before


@pytest.mark.method("ph3_head_pruning")
def test_patching_a_row_with_itself_scores_nothing() -> None:
    planted, heads, conflict = torn("gpt2", 4)
    same = RaggedBatch([Encoded(part.numpy()) for part in conflict.batch.ids.split(conflict.batch.lengths)])
    scores = path_effects(heads, planted.head, {same: conflict}, which="1.* 2.*")
    assert torch.equal(scores.values[1:], torch.zeros(2, 8))
    assert scores.values[0].isnan().all()
    assert HeadPruning.fit(scores, "context", 3).heads == []


@torch.no_grad()
def test_pruned_weights_do_the_same() -> None:
    backbone, rows = backbone_of("llama"), batch()
    heads = AttentionHeads(backbone)
    pruning = HeadPruning(heads.which("0.1 2.0 2.3"))
    model = copy.deepcopy(backbone.model)
    model.load_state_dict(pruning.fold(heads), strict=False)
    close(Backbone(model).run(rows)["output"], backbone.run(rows, changes=pruning(rows))["output"])


def test_corrupted_rows_of_other_lengths_are_refused() -> None:
    planted, heads, conflict = torn("gpt2", 2)
    with pytest.raises(ConfigError, match="corrupted rows have lengths"):
        path_effects(heads, planted.head, {batch(): conflict})
