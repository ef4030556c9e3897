"""What steers every token alike steers each step of a generation as it steers a whole text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from taskheads.attention.asked import last_vectors
from taskheads.attention.changed import Changed, Changing
from taskheads.attention.steer.memory_context_head_scaling import HeadScaling
from taskheads.attention.steer.ph3_head_pruning import HeadPruning
from taskheads.attention.steer.safety_heads_ships_sahara import SafetyHeads
from taskheads.attention.steer.tarot_head_rotation import HeadRotation
from taskheads.attention.steer.zerotuning_initial_token import ZeroTuning
from taskheads.attention.which import AttentionHead
from taskheads.backbone.generating import generate
from taskheads.backbone.ragged import Encoded, RaggedBatch
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch
from tests.backbone.test_sites import rows as rows_of_tokens

HEADS = [AttentionHead(0, 1), AttentionHead(1, 2), AttentionHead(2, 0)]
STEERED: dict[str, Changing] = {
    "scaling": HeadScaling(HEADS[1], -6.0),
    "pruning": HeadPruning(HEADS),
    "safety": SafetyHeads(HEADS, [0.0] * 3),
    "rotation": HeadRotation({head: torch.full((4,), 2.0) for head in HEADS}),
    "zerotuning": ZeroTuning(HEADS, 20.0),
}


@pytest.mark.parametrize("name", STEERED)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_each_step_is_that_of_the_whole_text(architecture: str, name: str) -> None:
    backbone, steering = backbone_of(architecture), STEERED[name]
    torch.manual_seed(0)
    language_head = nn.Linear(32, 97)

    def longhand(row: Encoded) -> list[int]:
        ids = row.ids.tolist()
        for _ in range(5):
            one = RaggedBatch([Encoded(np.array(ids))])
            ids.append(int(language_head(last_vectors(backbone, one, steering(one, [0]))).argmax()))
        return ids[len(row) :]

    with torch.inference_mode():
        wanted = [longhand(row) for row in rows_of_tokens()]
    assert generate(Changed(backbone, steering), language_head, batch(), most=5) == wanted
    assert generate(backbone, language_head, batch(), most=5) != wanted
