"""Patterns kept small: what is kept is the true pattern to half a 255th, and never too much is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskheads.attention.excerpts import Excerpt, excerpt, excerpts
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.pruning import pruned
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.training.joint.rows import encoded_rows
from tests.attention.test_heads import backbone_of
from tests.attention.test_usage import labelled
from tests.small_models import tiny_model


def some_row(length: int) -> Encoded:
    return Encoded(np.random.default_rng(length).integers(5, 90, length))


def truth(heads: AttentionHeads, row: Encoded, layer: int) -> torch.Tensor:
    """[heads, queries, keys]."""
    site = f"layers.{layer}.attention.pattern"
    with torch.inference_mode():
        return heads.backbone.run(RaggedBatch([row]), [site])[site].transpose(0, 1)


def decoded(found: Excerpt, layer: int) -> torch.Tensor:
    """The same as far as it is kept, 0 elsewhere."""
    keys, weights = (torch.from_numpy(each[layer].astype(np.int64)) for each in (found.keys, found.weights))
    whole = torch.zeros(*keys.shape[:2], len(found.ids))
    return whole.scatter_add(2, keys, weights / 255)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_all_keys_are_the_whole_pattern(architecture: str) -> None:
    heads, row = AttentionHeads(backbone_of(architecture)), some_row(14)
    found = excerpt(heads, row, ("topic",))
    assert (found.tasks, found.ids.tolist()) == (("topic",), row.ids.tolist())
    for layer in range(heads.n_layers):
        apart = (decoded(found, layer) - truth(heads, row, layer)).abs().max()
        assert apart <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize(("length", "bytes_a_key"), [(20, 2), (300, 3)])
def test_the_highest_weights_are_kept_and_nothing_else(length: int, bytes_a_key: int) -> None:
    heads, row = AttentionHeads(backbone_of("llama")), some_row(length)
    found = excerpt(heads, row, most=5)
    assert found.keys.shape == found.weights.shape == (3, 4, length, 5)
    assert found.nbytes == 3 * 4 * length * 5 * bytes_a_key
    for layer in range(3):
        whole = truth(heads, row, layer)
        kept = decoded(found, layer)
        best = whole.topk(5).values
        there = torch.from_numpy(found.keys[layer].astype(np.int64))
        torch.testing.assert_close(whole.gather(2, there)[:, 5:], best[:, 5:])  # before, fewer than five
        assert (kept - torch.where(kept > 0, whole, 0)).abs().max() <= 0.5 / 255 + 1e-6


def test_heads_that_are_gone_look_at_nothing() -> None:
    heads = AttentionHeads(pruned(AttentionHeads(backbone_of("gpt2")), "0.1 0.3"))
    found = excerpt(heads, some_row(6))
    assert found.weights.any((2, 3)).tolist() == [[True, True, False, False], [True] * 4, [True] * 4]


def test_there_are_as_many_rows_as_there_is_room_for() -> None:
    model = tiny_model(["topic", "size", "same", "other"])
    heads = AttentionHeads(model.backbone)
    rows = encoded_rows(model, {name: labelled(name) for name in model.heads})
    whole = excerpts(heads, rows)
    assert {task for each in whole for task in each.tasks} == set(rows)
    assert len({each.ids.tobytes() for each in whole}) == len(whole)
    assert any(each.tasks == ("topic", "size", "same") for each in whole)  # which have the same texts
    sizes = []
    for room in (80_000, 30_000, 12_000, 100):
        found = excerpts(heads, rows, room)
        sizes.append(sum(each.nbytes for each in found))
        assert sizes[-1] <= room
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3] == 0
