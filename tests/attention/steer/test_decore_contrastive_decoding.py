"""DeCoRe: the contrast with a masked copy, and generation by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from taskheads.attention.asked import last_vectors
from taskheads.attention.changing import scaled
from taskheads.attention.steer.decore_contrastive_decoding import contrasted, decore
from taskheads.backbone.generating import generate
from taskheads.backbone.ragged import Encoded, RaggedBatch
from tests.attention.steer.torn import torn
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch
from tests.backbone.test_sites import rows as rows_of_tokens


@pytest.mark.method("decore_contrastive_decoding")
def test_without_a_mask_or_a_doubt_it_is_the_model_itself() -> None:
    planted, _, conflict = torn("gpt2", 6)
    rows = conflict.batch
    with torch.inference_mode():
        base = 0.1 * planted.head(last_vectors(planted.backbone, rows))
    for strength in (0.0, 0.5, 7.0):
        torch.testing.assert_close(contrasted(base, base, strength), base.log_softmax(-1))
    other = base.flip(-1)
    gaps = []
    for sharpness in (1.0, 10.0, 100.0):
        found = contrasted(sharpness * base, other).exp()
        gaps.append(float((found - (sharpness * base).softmax(-1)).abs().max()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-6


@pytest.mark.method("decore_contrastive_decoding")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.inference_mode()
def test_the_context_is_likelier_where_the_head_that_reads_it_is_masked(architecture: str) -> None:
    with torch.inference_mode(False):
        planted, heads, conflict = torn(architecture, 12)
    rows, answers = conflict.batch, torch.as_tensor(conflict.context)[:, None]

    def logits(masked: list[tuple[int, int]]) -> torch.Tensor:
        # Planted models are very sure of what they say; this one is in doubt.
        return 0.2 * planted.head(last_vectors(planted.backbone, rows, scaled(masked, 0)))

    def gained(masked: list[tuple[int, int]]) -> torch.Tensor:
        gain = contrasted(logits([]), logits(masked)) - logits([]).log_softmax(-1)
        return gain.gather(1, answers)[:, 0]

    assert (gained([planted.heads["context"]]) > 0.1).all()
    rest = [head for head in heads.which() if head not in planted.heads.values()]
    draw = np.random.default_rng(0)
    for _ in range(3):
        assert (gained([rest[n] for n in draw.permutation(len(rest))[:3]]) < 0.01).all()


@pytest.mark.method("decore_contrastive_decoding")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_both_copies_go_on_with_the_token_of_the_contrast(architecture: str) -> None:
    backbone = backbone_of(architecture)
    torch.manual_seed(0)
    language_head, masked = nn.Linear(32, 97), [(1, 2), (2, 0)]

    def longhand(row: Encoded) -> list[int]:
        ids = row.ids.tolist()
        for _ in range(4):
            one = RaggedBatch([Encoded(np.array(ids))])
            base, without = (
                language_head(last_vectors(backbone, one, scaled(some, 0))) for some in ([], masked)
            )
            ids.append(int(contrasted(base, without, 3.0).argmax()))
        return ids[len(row) :]

    with torch.inference_mode():
        wanted = [longhand(row) for row in rows_of_tokens()]
    how: dict = {"most": 4, "strength": 3.0}
    assert decore(backbone, language_head, batch(), masked, **how) == wanted
    plain = generate(backbone, language_head, batch(), most=4)
    assert plain != wanted
    assert decore(backbone, language_head, batch(), [], **how) == plain
    stop = wanted[0][1]
    cut = [row[: row.index(stop)] if stop in row else row for row in wanted]
    assert decore(backbone, language_head, batch(), masked, stop=[stop], **how) == cut
