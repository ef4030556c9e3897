"""The effect of every head: exact, as a pass for each; and its estimates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskheads.attention.changing import replaced, scaled, site_of
from taskheads.attention.estimating import attributed, integrated, slopes
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import averaged, log_probability, logit_difference
from taskheads.attention.paths import head_outputs
from taskheads.attention.planted import plant, prompts
from taskheads.attention.scanning import effects
from taskheads.attention.scores import HeadScores
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import Pooling, pool
from tests.attention.test_changing import other_rows
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close

SITES = [site_of(layer) for layer in range(3)]


def readout(vectors: torch.Tensor) -> torch.Tensor:
    """A number of each row, not linear in its vector."""
    direction = torch.randn(vectors.shape[-1], generator=torch.Generator().manual_seed(5))
    return (vectors * direction).sum(-1).tanh() + vectors.square().mean(-1)


def one_by_one(heads: AttentionHeads, by: dict[str, torch.Tensor] | None, pooling: Pooling) -> torch.Tensor:
    """A pass of its own for every head."""
    rows = batch()

    def asked(changes: Changes | None) -> torch.Tensor:
        return readout(pool(heads.backbone.run(rows, changes=changes)["output"], rows, pooling))

    plain, found = asked(None), torch.zeros(len(rows), *heads.shape)
    for layer, head in heads.which():
        changes = scaled([(layer, head)], 0) if by is None else replaced([(layer, head)], by)
        found[:, layer, head] = asked(changes) - plain
    return found


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "t5", "albert", "gpt_neox"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@torch.inference_mode()
def test_all_heads_at_once_are_a_pass_for_each(architecture: str, pooling: Pooling) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    donor = heads.backbone.run(other_rows(), SITES)
    means = {site: each.mean(0) for site, each in donor.items()}
    for by in (None, donor, means):
        found = effects(heads, batch(), readout, by=by, pooling=pooling)
        torch.testing.assert_close(found, one_by_one(heads, by, pooling), atol=2e-6, rtol=1e-5)


def test_a_part_of_the_heads_in_any_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    from taskheads.attention import scanning

    heads = AttentionHeads(backbone_of("gpt2"))
    whole = effects(heads, batch(), readout)
    for at_once in (1, 50):
        monkeypatch.setattr(scanning, "_AT_ONCE", at_once)
        some = effects(heads, batch(), readout, which="0.1 2.*")
        kept = ~some.isnan()
        assert kept[0].nonzero().tolist() == [[0, 1], [2, 0], [2, 1], [2, 2], [2, 3]]
        close(some[kept], whole[kept])


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_the_planted_heads_are_found_by_their_effect(architecture: str) -> None:
    planted = plant(architecture, ["retrieval"])  # type: ignore[arg-type]
    heads, asked = AttentionHeads(planted.backbone), prompts("retrieval", 8)
    measure = logit_difference(planted.head, asked.answers, asked.others)
    rows = RaggedBatch(asked.rows)
    scores = averaged(heads, [rows], lambda b: -effects(heads, b, measure), seed=0)
    assert set(scores.top(2)) == set(planted.heads.values())
    assert scores.values.flatten().sort()[0][-3] < 0.05 * scores.values.max()
    assert scores.manifest == {
        "n": 8,
        "model": "planted" if architecture == "bert" else type(planted.model).__name__,
        "fingerprint": planted.backbone.fingerprint,
        "seed": 0,
    }


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_attribution_is_the_slope_of_the_exact_effect(architecture: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    torch.manual_seed(0)
    plain = head_outputs(heads, batch())
    small = {site: each + 1e-3 * torch.randn_like(each) for site, each in plain.items()}
    estimate = attributed(heads, batch(), readout, by=small)
    exact = effects(heads, batch(), readout, by=small)
    assert HeadScores.of(estimate.mean(0)).rank_correlation(HeadScores.of(exact.mean(0))) > 0.9
    assert (estimate - exact).abs().max() < 0.05 * exact.abs().max()
    assert not attributed(heads, batch(), readout, by=plain).any()


def test_attribution_needs_no_weight_to_have_a_gradient_and_leaves_none() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    parameters = list(heads.backbone.model.parameters())
    attributed(heads, batch(), readout)
    assert all(each.grad is None and each.requires_grad for each in parameters)
    for each in parameters:
        each.requires_grad_(False)
    attributed(heads, batch(), readout)
    assert not any(each.requires_grad for each in parameters)


def test_integrated_gradients_are_complete() -> None:
    def smooth(vectors: torch.Tensor) -> torch.Tensor:
        return vectors.square().mean(-1)

    heads = AttentionHeads(backbone_of("llama"))
    donor = head_outputs(heads, other_rows())
    for by, replaced_all in ((None, scaled(heads.which(), 0)), (donor, replaced(heads.which(), donor))):
        with torch.inference_mode():
            before, after = (
                smooth(pool(heads.backbone.run(batch(), changes=c)["output"], batch(), "last"))
                for c in (None, replaced_all)
            )
        found = integrated(heads, batch(), smooth, by=by, steps=12)
        torch.testing.assert_close(found.sum((1, 2)), after - before, atol=2e-3, rtol=1e-2)


def test_a_linear_path_is_estimated_exactly() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    linear = lambda vectors: vectors.sum(-1)  # noqa: E731
    found = slopes(heads, batch(), linear)
    assert list(found.values) == SITES
    # A head's output at the last token of another row, or in the future, moves nothing.
    rows = batch()
    last = torch.zeros(len(rows.ids), dtype=torch.bool)
    last[rows.starts + rows.counts - 1] = True
    assert not found.gradients[SITES[2]][~last].any()


def test_measures() -> None:
    head = torch.nn.Linear(6, 9)
    vectors = torch.randn(3, 2, 6)
    logits = head(vectors)
    difference = logit_difference(head, np.array([1, 2]), np.array([4, 0]))(vectors)
    close(difference, torch.stack([logits[:, 0, 1] - logits[:, 0, 4], logits[:, 1, 2] - logits[:, 1, 0]], 1))
    chances = log_probability(head, np.array([1, 2]))(vectors)
    close(chances[:, 1], logits[:, 1].log_softmax(-1)[:, 2])
