"""ZeroTuning: the first token's weight is scaled, the others keep their ratios."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from taskheads.attention.changed import Changed
from taskheads.attention.measures import log_probability
from taskheads.attention.planted import prompts
from taskheads.attention.steer.zerotuning_initial_token import ZeroTuning, certainty, profile
from taskheads.attention.which import AttentionHead
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.generating import generate
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from tests.attention.steer.drowsy import drowsy
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close

HEADS = [AttentionHead(1, 0), AttentionHead(1, 3)]
SITE = "layers.1.attention.pattern"


@pytest.mark.method("zerotuning_initial_token")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.inference_mode()
def test_a_shifted_score_is_a_scaled_and_normalised_weight(architecture: str) -> None:
    backbone, rows = backbone_of(architecture), batch()
    plain = backbone.run(rows, [SITE, "output"])
    before = plain[SITE][:, [0, 3]].double()
    first = before[..., :1]
    contrasts = []
    for gamma in (0.2, 0.7, 1.0, 1.5, 4.0):
        found = backbone.run(rows, [SITE, "output"], ZeroTuning(HEADS, gamma)(rows))
        after = found[SITE][:, [0, 3]].double()
        total = 1 + (gamma - 1) * first
        torch.testing.assert_close(after[..., :1], gamma * first / total, atol=1e-6, rtol=0)
        torch.testing.assert_close(after[..., 1:], before[..., 1:] / total, atol=1e-6, rtol=0)
        # At a token that sees three others at least, the contrast of two of them, and its closed form.
        seeing = rows.positions >= 2
        contrast = (after[seeing, :, 1] - after[seeing, :, 2]).abs()
        expected = (before[seeing, :, 1] - before[seeing, :, 2]).abs() / total[seeing][..., 0]
        close(contrast, expected)
        contrasts.append(contrast)
        assert torch.equal(found[SITE][:, [1, 2]], plain[SITE][:, [1, 2]])
        assert torch.equal(found["output"], plain["output"]) == (gamma == 1)
    for wide, narrow in pairwise(contrasts):
        assert (wide > narrow).all()


@pytest.mark.method("zerotuning_initial_token")
def test_the_head_that_leans_on_the_first_token_too_much_is_found_and_mended() -> None:
    planted, heads, retrieval = drowsy()
    asked = prompts("retrieval", 12)
    rows = RaggedBatch(asked.rows)
    measure = log_probability(planted.head, asked.answers)
    scores = profile(heads, {rows: measure}, 0.6)
    assert scores.top(1) == (retrieval,)
    assert (scores.values > 0.1 * scores.values.max()).sum() == 1
    tuned = ZeroTuning.fit(heads, {rows: measure}, share=0.01, gammas=(0.05, 0.3, 3.0))
    assert (list(tuned.heads), tuned.gamma) == ([retrieval], 0.05)

    def right(backbone: Backbone) -> float:
        found = generate(backbone, planted.head, rows, most=1)
        return sum(row == [answer] for row, answer in zip(found, asked.answers, strict=True)) / len(rows)

    assert right(planted.backbone) < 0.7
    # Without labels: the entropy falls most with the same head.
    assert profile(heads, {rows: certainty(planted.head)}, 0.3).top(1) == (retrieval,)
    assert right(Changed(planted.backbone, tuned)) == 1


def test_a_weight_is_not_scaled_by_nothing() -> None:
    with pytest.raises(ConfigError, match="gamma=0"):
        ZeroTuning(HEADS, 0)


def test_certainty_is_less_the_entropy() -> None:
    torch.manual_seed(0)
    head, vectors = torch.nn.Linear(8, 5), torch.randn(4, 8)
    close(certainty(head)(vectors), -torch.distributions.Categorical(logits=head(vectors)).entropy())
