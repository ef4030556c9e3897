"""The circuit of a task is found, and that two tasks which need the same step share it."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from taskheads.attention.asked import last_vectors
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.circuit_reuse import Circuit, attending, circuit_reuse, overlap, to_output
from taskheads.attention.measures import logit_difference
from taskheads.attention.paths import head_outputs
from taskheads.attention.planted import plant, prompts
from taskheads.attention.planted.wiring import ASKING, LETTERS, OPENING
from taskheads.attention.where import At
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.generating import language_model
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import ConfigError

# Each task has words of its own around one name, and a question of its own; the answer is the name.
NAMES = range(1, 13)
TASKS = {"letters": (range(13, 21), 29), "digits": (range(21, 29), 30)}
N_TOKENS, LENGTH = 31, 8


def rows(task: str, count: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, the same with another name in it, and the two names [count, 2]."""
    words, question = TASKS[task]
    ids = draw.choice(words, (count, LENGTH))
    ids[:, 0], ids[:, -1] = 0, question
    names = np.stack([draw.permutation(NAMES)[:2] for _ in range(count)])
    at = draw.integers(1, LENGTH - 1, count)
    clean, corrupted = ids.copy(), ids.copy()
    clean[range(count), at], corrupted[range(count), at] = names.T
    return clean, corrupted, names


def batch_of(ids: np.ndarray) -> RaggedBatch:
    return RaggedBatch([Encoded(row) for row in ids])


@cache
@torch.enable_grad()
def trained() -> tuple[Backbone, Any]:
    """A transformer of 2 layers with 8 heads each, from scratch, on both tasks."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 8, "n_positions": 16, "n_inner": 16}
    config = hf.GPT2Config(
        vocab_size=N_TOKENS,
        **sizes,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        embd_pdrop=0,
        attn_pdrop=0,
        resid_pdrop=0,
    )
    backbone, head = language_model(hf.GPT2LMHeadModel(config))
    weights = [*backbone.model.parameters(), *head.parameters()]
    optimiser, draw = torch.optim.Adam(weights, lr=3e-3), np.random.default_rng(0)
    for step in range(150):
        ids, _, names = rows(list(TASKS)[step % 2], 48, draw)
        logits = head(last_vectors(backbone, batch_of(ids)))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(names[:, 0]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return backbone, head


def circuit_of(task: str, heads: AttentionHeads, head: Any) -> Circuit:
    ids, corrupted, names = rows(task, 64, np.random.default_rng(1))
    return circuit_reuse(
        heads, batch_of(ids), batch_of(corrupted), logit_difference(head, *names.T), least=1.0
    )


@pytest.mark.method("circuit_reuse")
def test_two_tasks_that_need_the_same_copy_share_their_circuit() -> None:
    backbone, head = trained()
    heads = AttentionHeads(backbone)
    with torch.no_grad():
        for task in TASKS:
            ids, _, names = rows(task, 64, np.random.default_rng(1))
            assert (head(last_vectors(backbone, batch_of(ids))).argmax(1).numpy() == names[:, 0]).all()
    first, second = (circuit_of(task, heads, head) for task in TASKS)
    found = overlap(first, second, heads)
    assert found.share > 2 * found.chance
    assert found.p < 0.01


@pytest.mark.method("circuit_reuse")
def test_patching_a_head_that_writes_nothing_changes_nothing() -> None:
    backbone, head = trained()
    ids, corrupted, names = rows("letters", 16, np.random.default_rng(2))
    heads, (clean, donor) = AttentionHeads(backbone), (batch_of(ids), batch_of(corrupted))
    measure = logit_difference(head, *names.T)
    output = heads.output_weight(0)[3]
    before = output.detach().clone()
    with torch.no_grad():
        try:
            output.zero_()
            found = to_output(heads, clean, measure, head_outputs(heads, donor), head_outputs(heads, clean))
        finally:
            output.copy_(before)
    assert not found[:, 0, 3].any()
    assert found[:, 0, 5].abs().min() > 0


def with_other_keys(row: Encoded) -> Encoded:
    """The same values after other keys, and the same question."""
    ids = row.ids.copy()
    ids[1:-2:2] = np.roll(ids[1:-2:2], 1)
    return Encoded(ids)


@pytest.mark.method("circuit_reuse")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_the_planted_circuit_is_found_with_the_way_each_head_is_heard(architecture: Any) -> None:
    asked = prompts("retrieval", 8)
    batch, other = RaggedBatch(asked.rows), RaggedBatch([with_other_keys(row) for row in asked.rows])
    planted, bare = plant(architecture, ["retrieval"]), plant(architecture, [])
    found, none = (
        circuit_reuse(
            AttentionHeads(each.backbone),
            batch,
            other,
            logit_difference(each.head, asked.answers, asked.others),
            least=0.5,
        )
        for each in (planted, bare)
    )
    assert dict(found.ways) == {
        planted.heads["retrieval"]: {"output"},
        planted.heads["previous"]: {"key"},
    }
    assert none.heads == ()
    with pytest.raises(ConfigError, match="nothing in common"):
        overlap(found, none, AttentionHeads(planted.backbone))


@torch.no_grad()
def test_a_head_that_is_told_where_to_look_answers_from_there() -> None:
    planted, asked = plant("llama", ["retrieval"]), prompts("retrieval", 8)
    batch = RaggedBatch(asked.rows)
    edges = At([-1]).tokens(batch)[:, None] & At([-3]).keys(batch)
    told = last_vectors(planted.backbone, batch, attending([planted.heads["retrieval"]], edges))
    assert planted.head(told).argmax(1).tolist() == [int(row.ids[-3]) for row in asked.rows]


def test_the_overlap_of_two_circuits() -> None:
    heads = AttentionHeads(plant("gpt2", []).backbone)
    first, second = (
        Circuit({head: frozenset() for head in heads.which(said)}, {}) for said in ("0.0-3", "0.2-3 1.0-1")
    )
    found = overlap(first, second, heads)
    assert (found.share, found.chance) == (0.5, 4 / 24)
    # Of 24 heads, 4 of which are the other's: 2 or more among 4.
    ways = {both: math.comb(4, both) * math.comb(20, 4 - both) for both in range(5)}
    assert found.p == pytest.approx(sum(ways[both] for both in (2, 3, 4)) / sum(ways.values()))


def test_rows_that_do_not_fit() -> None:
    planted = plant("gpt2", [])
    with pytest.raises(ConfigError, match="lengths"):
        circuit_reuse(
            AttentionHeads(planted.backbone),
            batch_of(np.array([[OPENING, LETTERS[0]]])),
            batch_of(np.array([[OPENING, LETTERS[0], ASKING]])),
            lambda vectors: vectors.sum(-1),
            least=1.0,
        )
