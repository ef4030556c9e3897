"""Scores are the sum of their terms, streams of what was written; a planted signal leads to its writer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from taskheads.attention.changing import site_of
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.sparse_attention_decomposition import (
    Row,
    silenced,
    sparse_attention_decomposition,
)
from taskheads.attention.planted import plant, prompts, wiring
from taskheads.attention.planted.models import _maps
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import BackboneError, ConfigError
from tests.attention.test_heads import backbone_of

WRITER, READER = (0, 1), (1, 3)
MARK = wiring.LETTERS[3]


def row_of(*tokens: int) -> RaggedBatch:
    return RaggedBatch([Encoded(np.array(tokens))])


@pytest.mark.method("sparse_attention_decomposition")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gpt_neox"])
def test_terms_sum_to_the_score_and_writers_to_what_is_read(architecture: str) -> None:
    heads = AttentionHeads(backbone_of(architecture))
    batch = row_of(5, 9, 30, 22, 71, 8)
    row = Row.of(heads, batch)
    for head in ((0, 2), (2, 1)):
        scores = row.run.found[site_of(head[0], "scores")]
        for destination, source in ((5, 1), (3, 3), (4, 0)):
            found = row.signal(head, destination, source)
            torch.testing.assert_close(
                found.terms.sum(), scores[destination, head[1], source], atol=1e-5, rtol=1e-4
            )
            kept = list(found.kept)
            for read, parts in ((found.query, found.excess), (found.key, found.terms)):
                torch.testing.assert_close(read.total @ read.weights, parts[kept].sum(), atol=1e-5, rtol=1e-4)
                assert read.heads.shape == (head[0], 4, len(kept))
            if kept:
                part = found.excess[kept]
                assert (part.diff() <= 0).all()
                assert part[:-1].sum() < 0.9 * found.excess.sum()
                assert part.sum() >= 0.9 * found.excess.sum()


@torch.no_grad()
def with_signal(architecture: Any) -> AttentionHeads:
    """The head for the previous token writes; of all that, the reader looks for one mark, wherever it is."""
    planted = plant(architecture, {"previous": WRITER})
    query, key, _, _ = list(_maps(planted.model))[READER[0]]
    # The last number of a head hardly turns with the position.
    own = READER[1] * wiring.BLOCK + wiring.BLOCK - 1
    shared = READER[1] // (2 if architecture == "llama" else 1) * wiring.BLOCK + wiring.BLOCK - 1
    query[:, own - 31 : own + 1] *= 0.1
    query[:, own] = wiring.constant()[0]
    # Of a centred one-hot vector, what is 1 for the mark and 0 for all others.
    mark = wiring.place(wiring.PREVIOUS, torch.eye(wiring.BLOCK)[[MARK]]) + wiring.constant() / wiring.BLOCK
    key[:, shared] = mark[0]
    return AttentionHeads(planted.backbone)


@pytest.mark.method("sparse_attention_decomposition")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_signal_of_one_term_is_traced_and_taken_away(architecture: str) -> None:
    heads = with_signal(architecture)
    batch = row_of(0, 7, MARK, 9, 3, 10, 8)
    destination, source = 6, 3
    pattern = site_of(READER[0], "pattern")
    found = Row.of(heads, batch).signal(READER, destination, source)
    assert len(found.kept) == 1
    assert found.key.shares.flatten().argmax() == WRITER[0] * 8 + WRITER[1]
    links = sparse_attention_decomposition(heads, batch, READER, destination, source)
    assert [(link.writer, link.side, link.token) for link in links] == [(WRITER, "key", source)]
    assert links[0].share > 0.8
    with torch.no_grad():
        plain, silent = (
            heads.backbone.run(batch, [pattern], changes)[pattern][destination, READER[1]]
            for changes in (None, silenced(heads, WRITER, found.key))
        )
    assert plain[source] > 0.95
    assert silent[source] < 2 / (destination + 1)


@pytest.mark.method("sparse_attention_decomposition")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("job", ["retrieval", "induction"])
def test_the_planted_head_is_fed_by_the_one_for_the_previous_token(architecture: Any, job: str) -> None:
    planted, asked = plant(architecture, [job]), prompts(job, 3)
    heads = AttentionHeads(planted.backbone)
    bare = AttentionHeads(plant(architecture, []).backbone)
    for row, at in zip(asked.rows, asked.at.tolist(), strict=True):
        batch, last = RaggedBatch([row]), len(row) - 1
        links = sparse_attention_decomposition(heads, batch, planted.heads[job], last, at)
        assert {link.writer for link in links} == {planted.heads["previous"]}
        assert "key" in {link.side for link in links}
        assert sparse_attention_decomposition(bare, batch, planted.heads[job], last, at) == []


def test_one_row_of_a_plain_stream() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    with pytest.raises(ConfigError, match="in one row, not in 2"):
        Row.of(heads, RaggedBatch([Encoded(np.array([1, 2]))] * 2))
    with pytest.raises(BackboneError, match="no plain sum"):
        Row.of(AttentionHeads(backbone_of("bert")), row_of(5, 6))
