"""Knocking out an edge in a layer is felt where information takes it, and nowhere else."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch

from taskheads.attention.asked import last_vectors
from taskheads.attention.changing import blocked, site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.attention_knockout_flow import attention_knockout_flow, between, lens
from taskheads.attention.measures import log_probability
from taskheads.attention.planted.wiring import N_TOKENS
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError
from tests.attention.inspect.relay import LAST, MIDDLE, SOURCE, group, relay, rows

PLACES = {"source": SOURCE, "middle": MIDDLE, "last": LAST}


@pytest.mark.method("attention_knockout_flow")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
@torch.inference_mode()
def test_only_the_edges_that_carry_the_answer_matter(architecture: str) -> None:
    planted, asked = relay(architecture), rows()  # type: ignore[arg-type]
    heads, batch = AttentionHeads(planted.backbone), RaggedBatch(asked.rows)
    groups = {name: group(batch, at) for name, at in PLACES.items()}
    edges = {f"{a}->{b}": between(batch, groups[a], groups[b]) for a, b in product(PLACES, PLACES) if a != b}
    answer = log_probability(planted.head, asked.answers)
    assert answer(last_vectors(planted.backbone, batch)).exp().min() > 0.5

    flow = attention_knockout_flow(heads, batch, answer, edges)
    carrying = {("source->middle", 0), ("middle->last", 1)}
    plain = planted.head(last_vectors(planted.backbone, batch))
    for name, each in edges.items():
        for layer in range(heads.n_layers):
            gone = planted.head(
                last_vectors(planted.backbone, batch, blocked(heads.which(f"{layer}.*"), each))
            )
            if (name, layer) in carrying:
                left = gone.softmax(-1)[range(len(batch)), asked.answers]
                assert left.max() < 1.5 / N_TOKENS
                assert flow[name][:, layer].max() < -0.9
            else:
                assert (gone - plain).abs().max() < 1e-6
                assert flow[name][:, layer].abs().max() < 1e-5


@pytest.mark.method("attention_knockout_flow")
@torch.inference_mode()
def test_rows_of_a_blocked_pattern_sum_to_1() -> None:
    planted, batch = relay("gpt2"), RaggedBatch(rows().rows)
    heads = AttentionHeads(planted.backbone)
    edge = between(batch, group(batch, SOURCE), group(batch, MIDDLE))
    pattern = planted.backbone.run(batch, [site := site_of(0, "pattern")], blocked(heads.which("0.*"), edge))[
        site
    ]
    torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:2]))
    assert not pattern.transpose(1, 2)[edge].any()


@torch.inference_mode()
def test_a_window_blocks_the_layers_around() -> None:
    planted, asked = relay("gpt2"), rows()
    heads, batch = AttentionHeads(planted.backbone), RaggedBatch(asked.rows)
    edge = {"x": between(batch, group(batch, SOURCE), group(batch, MIDDLE))}
    answer = log_probability(planted.head, asked.answers)
    felt = attention_knockout_flow(heads, batch, answer, edge, window=3)["x"] < -0.9
    assert felt.all(0).tolist() == [True, True, False]
    with pytest.raises(ConfigError, match="window of 2 layers"):
        attention_knockout_flow(heads, batch, answer, edge, window=2)


def test_edges_stay_in_their_row() -> None:
    batch = RaggedBatch(rows().rows)
    whole = between(batch, torch.ones(len(batch.ids), dtype=torch.bool), group(batch, LAST))
    assert whole.sum(1).tolist() == [
        length if token == length - 1 else 0 for length in batch.lengths for token in range(length)
    ]
    for mine, (start, end) in zip(
        between(batch, group(batch, SOURCE), group(batch, LAST)).split(batch.lengths),
        pairwise([0, *torch.tensor(batch.lengths).cumsum(0).tolist()]),
        strict=True,
    ):
        assert mine.nonzero().tolist() == [[end - start - 1, end - start - 4]]


@torch.inference_mode()
def test_the_lens_sees_the_answer_after_the_layer_that_brings_it() -> None:
    planted, asked = relay("llama"), rows()
    heads, batch = AttentionHeads(planted.backbone), RaggedBatch(asked.rows)
    answer = log_probability(planted.head, asked.answers)
    found = lens(heads, batch, answer).exp()
    torch.testing.assert_close(found[:, -1], answer(last_vectors(planted.backbone, batch)).exp())
    assert found[:, :2].max() < 1.5 / N_TOKENS
    assert found[:, 2:].min() > 0.5
