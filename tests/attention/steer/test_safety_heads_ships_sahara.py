"""Ships and Sahara: the planted head that refuses comes first."""

from __future__ import annotations

import pytest
import torch

from taskheads.attention.heads import AttentionHeads
from taskheads.attention.planted import Planted, plant, prompts
from taskheads.attention.steer.safety_heads_ships_sahara import (
    SafetyHeads,
    ablated,
    ships,
    subspace_shifts,
    turned,
)
from taskheads.attention.where import At
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch


def refusing(architecture: str, noise: float = 0.05) -> tuple[Planted, AttentionHeads, RaggedBatch]:
    """Subjects are what shall not be asked for, and one head answers each with an attribute: its refusal."""
    planted = plant(architecture, ["memory", "copy"], noise=noise)  # type: ignore[arg-type]
    heads = AttentionHeads(planted.backbone)
    with torch.no_grad():  # what is answered without it
        heads.output_weight(1)[planted.heads["copy"][1]] *= 0.3
    return planted, heads, RaggedBatch(prompts("memory", 12).rows)


@pytest.mark.method("safety_heads_ships_sahara")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_almost_no_query_looks_at_all_tokens_alike(architecture: str) -> None:
    backbone, rows = backbone_of(architecture), batch()
    site = "layers.1.attention.pattern"
    allowed = At().keys(rows) & (torch.arange(9) <= rows.positions[:, None])
    uniform = allowed / allowed.sum(1, keepdim=True)
    gaps = []
    for epsilon in (1e-2, 1e-4, 1e-6):
        found = backbone.run(rows, [site], ablated([(1, 2)], "attention", epsilon))[site]
        gaps.append(float((found[:, 2] - uniform).abs().max()))
        assert torch.equal(found[:, [0, 1, 3]], backbone.run(rows, [site])[site][:, [0, 1, 3]])
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 1e-4 > gaps[-1]


@pytest.mark.method("safety_heads_ships_sahara")
@pytest.mark.parametrize("ablation", ["attention", "contribution"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_refusing_head_comes_first_by_both_scores(architecture: str, ablation: str) -> None:
    planted, heads, rows = refusing(architecture)
    how: dict = {"ablation": ablation}
    single = ships(heads, planted.head, [rows], **how)
    whole = subspace_shifts(heads, [rows], **how)
    for scores in (single, whole):
        assert scores.top(1) == (planted.heads["memory"],)
    group = SafetyHeads.fit(heads, [rows], 2, which="1.* 2.*", **how)
    assert group.heads[0] == planted.heads["memory"]
    # The second is the best of those that are left, given the first.
    second = subspace_shifts(heads, [rows], group.heads[:1], which="1.* 2.*", **how)
    assert group.heads[1:] == second.top(1)
    assert second.values[group.heads[0]].isnan()
    assert group.shifts[1] == float(second.values.nan_to_num(-1).max())
    alone = SafetyHeads(group.heads[:1], group.shifts[:1], **how)
    with torch.inference_mode():
        said = planted.head(planted.backbone.run(rows, ["output"], alone(rows))["output"])
        before = planted.head(planted.backbone.run(rows, ["output"])["output"])
    last = rows.starts + rows.counts - 1
    refusals = torch.tensor(prompts("memory", 12).answers)
    assert (before[last].argmax(1) == refusals).all()
    assert not (said[last].argmax(1) == refusals).any()


@pytest.mark.method("safety_heads_ships_sahara")
def test_heads_that_say_nothing_turn_nothing() -> None:
    planted, heads, rows = refusing("gpt2", noise=0.0)
    for ablation in ("attention", "contribution"):
        values = subspace_shifts(heads, [rows], ablation=ablation).values  # type: ignore[arg-type]
        silent = torch.ones(3, 8, dtype=torch.bool)
        silent[tuple(torch.tensor(list(planted.heads.values())).T)] = False
        assert values[silent].max() < 1e-6 < 0.1 < values[planted.heads["memory"]]


def test_more_heads_than_there_are_cannot_be_chosen() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    with pytest.raises(ConfigError, match="no group of 3 can be chosen from 2 heads"):
        SafetyHeads.fit(heads, [batch()], 3, which="0.1 2.2")


def test_planes_at_an_angle() -> None:
    angle = 0.3
    here = torch.eye(4)[:2]
    there = torch.tensor(
        [[1.0, 0, 0, 0], [0, torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle)), 0]]
    )
    assert turned(here, there, 2) == pytest.approx(angle, abs=1e-6)
    assert turned(here, torch.eye(4)[2:], 2) == pytest.approx(torch.pi)
