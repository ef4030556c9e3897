"""Learnable task vectors: their slopes, and regression with hardly an example."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
import transformers as hf
from torch import nn

from taskheads.attention.asked import answered, last_vectors
from taskheads.attention.changed import Changing
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import Measure
from taskheads.attention.steer.learnable_task_vector import LearnableTaskVector, mean_contributions
from taskheads.attention.where import At
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import Encoded, RaggedBatch
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close


@pytest.mark.method("learnable_task_vector")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_slope_of_a_weight_is_that_of_the_stream_along_its_head(architecture: str) -> None:
    heads, rows = AttentionHeads(backbone_of(architecture)), batch()
    backbone = heads.backbone
    contributions = mean_contributions(heads, [rows])
    weights = torch.zeros(heads.shape, requires_grad=True)
    direction = torch.randn(32, generator=torch.Generator().manual_seed(0))

    def loss(vectors: torch.Tensor) -> torch.Tensor:
        return (vectors @ direction).square()

    vector = LearnableTaskVector(contributions, weights)
    plain = backbone.run(rows)["output"]
    assert torch.equal(backbone.run(rows, changes=vector(rows))["output"], plain)
    (found,) = torch.autograd.grad(answered(backbone, {rows: loss}, vector).sum(), [weights])
    sites = [f"layers.{layer}.output" for layer in range(3)]
    probes = {site: torch.zeros_like(plain, requires_grad=True) for site in sites}
    probing = Changes(sites={site: partial(torch.add, probe) for site, probe in probes.items()})
    total = loss(last_vectors(backbone, rows, probing)).sum()
    slopes = torch.autograd.grad(total, [probes[site] for site in sites])
    last = At([-1]).tokens(rows)
    wanted = torch.stack([contributions[layer] @ slope[last].sum(0) for layer, slope in enumerate(slopes)])
    assert wanted.abs().min() > 1e-4
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.method("learnable_task_vector")
@torch.no_grad()
def test_each_layer_adds_its_vector_at_the_last_token() -> None:
    heads, rows = AttentionHeads(backbone_of("llama")), batch()
    contributions = mean_contributions(heads, [rows])
    z = heads.backbone.run(rows, ["layers.1.attention.heads"])["layers.1.attention.heads"]
    last = At([-1]).tokens(rows)
    close(contributions[1], heads.contributions(1, z[last]).mean(0))
    weights = torch.zeros(heads.shape)
    weights[1] = torch.tensor([0.5, -1.0, 0.0, 2.0])
    vector = LearnableTaskVector(contributions, weights)
    site = "layers.1.output"
    before, after = (heads.backbone.run(rows, [site], c)[site] for c in (None, vector(rows)))
    close(after[last] - before[last], (weights[1] @ contributions[1]).expand(len(rows), -1))
    assert torch.equal(after[~last], before[~last])


VALUES = torch.linspace(0.3, 1.0, 8)
# Noisy results are given as one of these tokens, which come after those of the values.
RESULTS = torch.linspace(-1.5, 1.5, 33)


@dataclass(frozen=True)
class Regression:
    """A small transformer that was trained to regress in context: from x1 y1 x2 y2 ... x to w x."""

    backbone: Backbone
    head: nn.Linear


def examples(count: int, shots: int, slope: float | None, draw: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Token ids [count, 2 shots + 1], and the results [count, shots + 1] without noise."""
    slopes = torch.rand(count, 1, generator=draw) * 2 - 1 if slope is None else torch.tensor([[slope]])
    places = torch.randint(0, len(VALUES), (count, shots + 1), generator=draw)
    results = slopes * VALUES[places]
    noisy = results + 0.2 * torch.randn(results.shape, generator=draw)
    tokens = (noisy[..., None] - RESULTS).abs().argmin(-1) + len(VALUES)
    return torch.stack([places, tokens], -1).flatten(1)[:, :-1], results


@pytest.fixture(scope="module")
def regression() -> Regression:
    torch.manual_seed(0)
    sizes = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32, "n_inner": 96}
    drops = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    config = hf.GPT2Config(
        vocab_size=len(VALUES) + len(RESULTS), bos_token_id=0, eos_token_id=0, **sizes, **drops
    )
    model, head = hf.GPT2Model(config), nn.Linear(48, 1)
    with torch.no_grad():  # numbers begin as points on two lines
        line, other, here, there = torch.randn(4, 48) * 3 / 48**0.5
        model.wte.weight[: len(VALUES)] = VALUES[:, None] * line + here
        model.wte.weight[len(VALUES) :] = RESULTS[:, None] * other + there
    draw = torch.Generator().manual_seed(0)
    parameters = [*model.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=240)
    for _ in range(240):
        ids, results = examples(48, 6, None, draw)
        made = head(model(input_ids=ids).last_hidden_state[:, ::2])[..., 0]
        loss = (made - results).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Regression(Backbone(model.eval()), head)


def rows_of(shots: int, slope: float, count: int, seed: int) -> tuple[RaggedBatch, torch.Tensor]:
    """Prompts with so many examples, and their results."""
    ids, results = examples(count, shots, slope, torch.Generator().manual_seed(seed))
    return RaggedBatch([Encoded(row.numpy()) for row in ids]), results[:, -1]


@pytest.mark.method("learnable_task_vector")
@pytest.mark.parametrize("slope", [0.8, -0.6])
def test_it_regresses_with_no_example_or_one_better_than_plain_means(
    regression: Regression, slope: float
) -> None:
    backbone, head = regression.backbone, regression.head
    heads = AttentionHeads(backbone)
    shown, _ = rows_of(6, slope, 64, seed=1)

    def asked(seed: int) -> dict[RaggedBatch, Measure]:
        """Less the squared error of prompts with no example, and of others with one."""

        def measured(results: torch.Tensor) -> Measure:
            return lambda vectors: -(head(vectors)[:, 0] - results).square()

        return {
            rows: measured(results) for rows, results in (rows_of(n, slope, 32, seed + n) for n in (0, 1))
        }

    def error(changing: Changing | None) -> float:
        with torch.no_grad():
            return -float(answered(backbone, asked(7), changing).mean())

    learned = LearnableTaskVector.fit(heads, [shown], asked(3), steps=100, lr=0.5)
    even = LearnableTaskVector(learned.contributions, torch.ones(heads.shape))
    sites = [f"layers.{layer}.output" for layer in range(2)]
    bare, _ = rows_of(0, slope, 32, seed=5)
    with torch.no_grad():
        known, unknown = (
            {site: found[At([-1]).tokens(rows)].mean(0) for site, found in backbone.run(rows, sites).items()}
            for rows in (shown, bare)
        )

    def shifted(site: str) -> Changing:
        """The mean hidden state of prompts with examples less that of those without, added there."""
        step = known[site] - unknown[site]
        return lambda rows, past: Changes(sites={site: lambda h: h + At([-1]).tokens(rows)[:, None] * step})

    rivals = [error(even), *(error(shifted(site)) for site in sites)]
    assert error(learned) < 0.5 * error(None)
    assert error(learned) < 0.85 * min(rivals)
