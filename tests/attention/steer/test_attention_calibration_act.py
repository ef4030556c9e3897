"""ACT: sinks are found and give their weight to the others in proportion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.steer.attention_calibration_act import AttentionCalibration, calibrated, sinks
from taskheads.attention.which import AttentionHead
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import ConfigError
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close

SITE = "layers.1.attention.pattern"


def planted_pattern(rows: RaggedBatch, heads: int, sink: int, share: float) -> torch.Tensor:
    """Causal patterns, random but for head 1, in which the first token and that at `sink` stand out."""
    draw = torch.Generator().manual_seed(0)
    position, longest = rows.positions, max(rows.lengths)
    weights = torch.rand(len(rows.ids), heads, longest, generator=draw) + 0.5
    weights = weights.masked_fill(torch.arange(longest) > position[:, None, None], 0)
    weights[:, 1] *= 1e-3
    weights[:, 1, 0] = share
    weights[position >= sink, 1, sink] = share
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.method("attention_calibration_act")
def test_weights_go_from_the_sink_to_the_others_in_proportion() -> None:
    rows = RaggedBatch([Encoded(np.arange(3, 3 + n)) for n in (12, 16, 1, 12)])
    pattern = planted_pattern(rows, 3, sink=5, share=1.0)
    found = sinks(pattern, rows, 3.0)
    # The planted one is found in each row that has it, and nothing else; the first column never is.
    wanted = torch.zeros_like(found)
    wanted[[0, 1, 3], 1, 5] = True
    assert torch.equal(found, wanted)
    assert not sinks(pattern, rows, 1e-6)[..., 0].any()
    at = found[rows.row_of_token]
    made = calibrated(pattern, at, 0.4)
    torch.testing.assert_close(made.sum(-1), torch.ones_like(made[..., 0]), atol=1e-6, rtol=0)
    assert not made[pattern == 0].any()
    torch.testing.assert_close(made[at], 0.4 * pattern[at])
    raised = (made / pattern).masked_fill(at | (pattern == 0), torch.nan)
    low, high = raised.nan_to_num(torch.inf).amin(-1), raised.nan_to_num(-torch.inf).amax(-1)
    close(low, high)
    assert (high[at.any(-1) & (pattern[:, :, 5] > 0)] > 1.1).all()
    assert torch.equal(calibrated(pattern, at, 1.0), pattern)
    assert torch.equal(calibrated(pattern, torch.zeros_like(at), 0.4), pattern)


@pytest.mark.method("attention_calibration_act")
@torch.inference_mode()
def test_in_a_model_it_is_what_the_formula_says_and_nothing_without_sinks() -> None:
    backbone, rows = backbone_of("gpt2"), batch()
    heads = [AttentionHead(1, 0), AttentionHead(1, 2)]
    plain = backbone.run(rows, [SITE, "output"])
    some = plain[SITE][:, [0, 2]]
    found = backbone.run(rows, [SITE, "output"], AttentionCalibration(heads, 0.3, 1.2)(rows))
    at = sinks(some, rows, 1.2)[rows.row_of_token]
    assert at.any()
    close(found[SITE][:, [0, 2]], calibrated(some, at, 0.3))
    assert not torch.equal(found["output"], plain["output"])
    for same in (AttentionCalibration(heads, 1.0, 1.2), AttentionCalibration(heads, 0.3, 1e3)):
        assert torch.equal(backbone.run(rows, ["output"], same(rows))["output"], plain["output"])


@pytest.mark.method("attention_calibration_act")
def test_those_heads_are_kept_that_answer_better_alone() -> None:
    heads, rows = AttentionHeads(backbone_of("llama")), batch()
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    asked = {rows: lambda vectors: vectors @ direction}
    kept = AttentionCalibration.fit(heads, asked, which="1.* 2.*", beta=0.2, threshold=1.1)

    def mean(changing: AttentionCalibration | None) -> float:
        changes = None if changing is None else changing(rows)
        with torch.inference_mode():
            output = heads.backbone.run(rows, ["output"], changes)["output"]
        return float((output[rows.starts + rows.counts - 1] @ direction).mean())

    better = [
        head for head in heads.which("1.* 2.*") if mean(AttentionCalibration([head], 0.2, 1.1)) > mean(None)
    ]
    assert 0 < len(better) < 8
    assert set(kept.heads) == set(better)


def test_a_negative_beta_is_refused() -> None:
    with pytest.raises(ConfigError, match="beta=-1"):
        AttentionCalibration([], -1)
