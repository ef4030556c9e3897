"""Associative memories: built ones solve the task, any one permuted does not; trained ones come in order."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from taskheads.attention.inspect.birth_of_transformer import Bigrams, TwoMemories, memory, recall

TOKENS, TRIGGERS, LENGTH = 16, 4, 24


def accuracy(model: TwoMemories, data: Bigrams) -> float:
    """Of the tokens that the context alone tells."""
    rows, known = data.sequences(64, LENGTH, seed=1)
    with torch.no_grad():
        right = model(rows).argmax(-1)[:, :-1] == rows[:, 1:]
    return float(right[known[:, :-1]].float().mean())


@pytest.mark.method("birth_of_transformer")
@torch.no_grad()
def test_sums_of_outer_products_solve_it_and_none_can_be_permuted() -> None:
    data = Bigrams.drawn(TOKENS, TRIGGERS)
    model = TwoMemories(TOKENS, LENGTH, 512).built(data.triggers)
    assert accuracy(model, data) > 0.98
    assert set(model.recalls(data.triggers).values()) == {1.0}
    # The same memory, its inputs assigned to one another's outputs.
    said, some = model.embeddings @ model.values[1].T, list(data.triggers)
    permuted = {
        "first_keys": 50 * memory(model.positions[:-1].roll(1, 0), model.positions[1:]),
        "second_keys": 50 * memory(model.carried[some].roll(1, 0), model.embeddings[some]),
        "second_output": memory(model.unembeddings.roll(1, 0), said),
    }
    for name, weight in permuted.items():
        worse = TwoMemories(TOKENS, LENGTH, 512).built(data.triggers)
        getattr(worse, name).copy_(weight)
        assert worse.recalls(data.triggers)[name] == 0
        assert accuracy(worse, data) < 0.3


@pytest.mark.method("birth_of_transformer")
def test_in_training_the_memories_come_in_order() -> None:
    data, model = Bigrams.drawn(TOKENS, TRIGGERS), TwoMemories(TOKENS, LENGTH, 96)
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    learnt: dict[str, int] = {}
    for step in range(200):
        rows, known = data.sequences(64, LENGTH, seed=100 + step)
        told = known[:, :-1]
        loss = cross_entropy(model(rows)[:, :-1][told], rows[:, 1:][told])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for name, share in model.recalls(data.triggers).items():
            if share > 0.8:
                learnt.setdefault(name, step)
    assert list(learnt) == ["second_output", "second_keys", "first_keys"]
    assert learnt["first_keys"] - learnt["second_output"] > 20
    assert accuracy(model, data) > 0.95


def test_recall_of_a_memory() -> None:
    inputs, outputs = torch.eye(6)[:4], torch.eye(5)
    weight = memory(outputs[[2, 0, 3, 1]], inputs)
    assert recall(weight, inputs, outputs, [2, 0, 3, 1]) == 1
    assert recall(weight, inputs, outputs, [2, 0, 1, 3]) == 0.5


def test_sequences_keep_to_their_law_and_their_exceptions() -> None:
    data = Bigrams.drawn(6, 2, seed=4)
    rows, known = data.sequences(400, 30, seed=5)
    for row, told in zip(rows[:50].tolist(), known[:50].tolist(), strict=True):
        after = {}
        for at in range(29):
            assert told[at] == (row[at] in data.triggers and row[at] in after)
            if row[at] in data.triggers:
                assert after.setdefault(row[at], row[at + 1]) == row[at + 1]
    usual = rows[:, :-1] == 4
    share = torch.bincount(rows[:, 1:][usual], minlength=6) / usual.sum()
    torch.testing.assert_close(share, torch.from_numpy(data.law[4]).float(), atol=0.05, rtol=0)
