"""Heads that rest on the first token of some texts and work on others: trained from scratch, and planted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from taskheads.attention.changing import scaled, site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.active_dormant_heads import active_dormant_heads, peaks, quiet_values
from taskheads.attention.planted import plant
from taskheads.attention.planted.wiring import LETTERS, OPENING
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.generating import language_model
from taskheads.backbone.ragged import Encoded, RaggedBatch

N_TOKENS, LENGTH, TRIGGERS = 20, 32, (1, 2, 3)
FIRST = 0


class ReluAttention:
    """Weights are the positive parts of the scores over the number of keys, in place of softmax."""

    def __init__(self) -> None:
        self.scores = torch.empty(0)

    def keep(self, scores: torch.Tensor) -> torch.Tensor:
        self.scores = scores
        return scores

    def weigh(self, _: torch.Tensor) -> torch.Tensor:
        return self.scores.relu() / (~self.scores.isneginf()).sum(-1, keepdim=True)

    @property
    def changes(self) -> Changes:
        return Changes(sites={site_of(0, "scores"): self.keep, site_of(0, "pattern"): self.weigh})


def backcopy(rows: int, draw: np.random.Generator) -> np.ndarray:
    """Bigram-Backcopy: after a trigger comes what came before it, else what a Markov chain says."""
    chain = np.random.default_rng(7).dirichlet(np.full(N_TOKENS - 1, 0.3), N_TOKENS)
    chain[:, : len(TRIGGERS)] = 0.15
    chain = (chain / chain.sum(1, keepdims=True)).cumsum(1)
    ids = np.full((rows, LENGTH), FIRST)
    ids[:, 1] = draw.integers(len(TRIGGERS) + 1, N_TOKENS, rows)
    for at in range(2, LENGTH):
        drawn = 1 + (draw.random((rows, 1)) > chain[ids[:, at - 1]][:, :-1]).sum(1)
        ids[:, at] = np.where(np.isin(ids[:, at - 1], TRIGGERS), ids[:, at - 2], drawn)
    return ids


def losses(backbone: Backbone, head: Any, ids: np.ndarray, changes: Changes | None = None) -> torch.Tensor:
    """Of each next token [rows, LENGTH - 1]."""
    output = backbone.run(RaggedBatch([Encoded(row) for row in ids]), changes=changes)["output"]
    logits = head(output).unflatten(0, ids.shape)[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), torch.from_numpy(ids)[:, 1:], reduction="none"
    )


@cache
@torch.enable_grad()
def trained(relu: bool) -> tuple[Backbone, Any]:
    """A transformer of one layer with one attention head, from scratch."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_embd": 48, "n_layer": 1, "n_head": 1, "n_positions": LENGTH, "n_inner": 96}
    config = hf.GPT2Config(
        vocab_size=N_TOKENS,
        **sizes,
        tie_word_embeddings=False,
        bos_token_id=FIRST,
        eos_token_id=FIRST,
        embd_pdrop=0,
        attn_pdrop=0,
        resid_pdrop=0,
    )
    backbone, head = language_model(hf.GPT2LMHeadModel(config))
    weights = [*backbone.model.parameters(), *head.parameters()]
    optimiser, draw = torch.optim.Adam(weights, lr=1e-2), np.random.default_rng(0)
    steps = 350
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, steps)
    for _ in range(steps):
        loss = losses(backbone, head, backcopy(16, draw), ReluAttention().changes if relu else None).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return backbone, head


@pytest.mark.method("active_dormant_heads")
@torch.no_grad()
def test_the_head_of_bigram_backcopy_rests_but_on_triggers() -> None:
    backbone, head = trained(relu=False)
    heads, ids = AttentionHeads(backbone), backcopy(64, np.random.default_rng(1))
    batch = RaggedBatch([Encoded(row) for row in ids])
    to_first, triggers = weight_of_first(batch, backbone), np.isin(ids, TRIGGERS)
    assert to_first[:, 2:][~triggers[:, 2:]].mean() > 0.8
    assert to_first[:, 2:][triggers[:, 2:]].mean() < 0.2
    assert quiet_values(heads, [batch]).values[0, 0] < 0.25

    plain = losses(backbone, head, ids)
    without = losses(backbone, head, ids, scaled([(0, 0)], 0)) - plain
    asked = triggers[:, :-1]
    assert without[asked].mean() > 2
    assert without[~asked].mean().abs() < 0.02


@pytest.mark.method("active_dormant_heads")
@torch.no_grad()
def test_without_softmax_no_sink_forms() -> None:
    (backbone, head), (other, other_head) = trained(relu=True), trained(relu=False)
    ids = backcopy(64, np.random.default_rng(1))
    batch, relu = RaggedBatch([Encoded(row) for row in ids]), ReluAttention().changes
    assert losses(backbone, head, ids, relu).mean() < losses(other, other_head, ids).mean() + 0.1
    assert weight_of_first(batch, backbone, relu)[:, 2:].mean() < 0.1
    drained = quiet_values(AttentionHeads(other), [batch]).values
    assert (quiet_values(AttentionHeads(backbone), [batch]).values > 2 * drained).all()


@pytest.mark.method("active_dormant_heads")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_planted_head_works_on_rows_that_repeat_and_rests_on_others(architecture: str) -> None:
    domains = {
        "repeating": [RaggedBatch(rows_of(lambda some: [*some[:5]] * 4))],
        "other": [RaggedBatch(rows_of(lambda some: some))],
    }
    planted = plant(architecture, ["induction"])  # type: ignore[arg-type]
    found = active_dormant_heads(AttentionHeads(planted.backbone), domains)
    assert found.switching() == found.dormant("other") == (planted.heads["induction"],)
    assert found.dormant("repeating") == ()
    bare = active_dormant_heads(AttentionHeads(plant(architecture, []).backbone), domains)  # type: ignore[arg-type]
    assert bare.switching() == bare.dormant("other") == bare.dormant("repeating") == ()


def test_the_first_token_beside_the_others() -> None:
    planted = plant("llama", [])
    heads, rows = AttentionHeads(planted.backbone), rows_of(lambda some: some)
    sites = [site_of(1, "value"), "layers.1.output"]
    shares = []
    for row in rows:
        found = planted.backbone.run(RaggedBatch([row]), sites)
        shares.append([found[site].norm(dim=-1) for site in sites])
    values = [each[0, 2] / each[1:, 2].mean() for each, _ in shares]
    streams = [each[0] / each[1:].mean() for _, each in shares]
    batches = [RaggedBatch(rows)]
    # Heads 4 and 5 have the third of four groups' values.
    mean = torch.stack(values).mean().expand(2)
    torch.testing.assert_close(quiet_values(heads, batches).values[1, 4:6], mean)
    torch.testing.assert_close(peaks(heads, batches)[1], torch.stack(streams).mean())


def rows_of(made: Callable[[list[int]], list[int]]) -> list[Encoded]:
    """Six rows of letters."""
    draw = np.random.default_rng(0)
    return [Encoded(np.array([OPENING, *made(draw.permutation(LETTERS).tolist())])) for _ in range(6)]


def weight_of_first(batch: RaggedBatch, backbone: Backbone, changes: Changes | None = None) -> torch.Tensor:
    """Of the only head, for each query [rows, LENGTH]."""
    pattern = backbone.run(batch, [site_of(0, "pattern")], changes)[site_of(0, "pattern")]
    return pattern[:, 0, 0].unflatten(0, (-1, LENGTH))
