"""A batch of all tasks gives each task the loss, and the weights the gradient, that it would have alone."""

from __future__ import annotations

import numpy as np
import torch

from taskheads.training.joint.batch import MixedBatch
from tests.training.joint.planted import KINDS, fresh

DRAWN = {
    "topic": np.asarray([5, 0, 17]),
    "size": np.asarray([3]),
    "names": np.asarray([9, 2, 30, 4]),
    "find": np.asarray([1, 8, 6]),
}


def test_each_loss_is_that_of_the_task_alone() -> None:
    backbone, heads, rows, _ = fresh(tuple(KINDS))
    for head in heads.values():
        for each in head.parameters():
            torch.nn.init.normal_(each, std=0.3, generator=torch.Generator().manual_seed(1))
    together = MixedBatch(rows, DRAWN).losses(backbone.run, heads)
    sum(together.values()).backward()
    joint = {
        name: each.grad.clone() for name, each in backbone.model.named_parameters() if each.grad is not None
    }
    backbone.model.zero_grad()
    for name, chosen in DRAWN.items():
        (alone,) = MixedBatch(rows, {name: chosen}).losses(backbone.run, heads).values()
        torch.testing.assert_close(together[name], alone, rtol=1e-5, atol=1e-5)
        alone.backward()
    for name, each in backbone.model.named_parameters():
        if name in joint:
            torch.testing.assert_close(joint[name], each.grad, rtol=1e-4, atol=1e-5)


def test_a_task_is_one_slice_of_the_tokens() -> None:
    _backbone, _, rows, _ = fresh(tuple(KINDS))
    batch = MixedBatch(rows, DRAWN)
    at = 0
    for name, part in batch.parts.items():
        assert part.tokens == slice(at, at + int(rows[name].tokens[DRAWN[name]].sum()))
        at = part.tokens.stop
        row = part.rows[0].start
        chosen = DRAWN[name][np.argsort(rows[name].tokens[DRAWN[name]], kind="stable")][0]
        ids = rows[name].encoded[0][chosen].ids
        assert batch.ragged.lengths[row] == len(ids)
        first = int(batch.ragged.starts[row])
        assert batch.ragged.ids[first : first + len(ids)].tolist() == ids.tolist()
    assert at == batch.tokens
