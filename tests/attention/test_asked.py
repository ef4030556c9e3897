"""Rows with what is asked of them, heads changed alone, what is learned, and what is folded into weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from taskheads.attention.alone import alone
from taskheads.attention.asked import answered, best_of, descend, last_vectors
from taskheads.attention.changing import edited, moved, scaled
from taskheads.attention.conflicts import Conflict, share
from taskheads.attention.folding import folded
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.scanning import effects
from taskheads.backbone.backbone import Backbone
from taskheads.edits.composing import then
from taskheads.errors import ConfigError
from tests.attention.test_effects import readout
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_a_head_changed_alone_is_a_pass_of_its_own(architecture: str) -> None:
    heads, rows = AttentionHeads(backbone_of(architecture)), batch()
    found = alone(heads, rows, readout, lambda head: scaled([head], 0))
    torch.testing.assert_close(found, effects(heads, rows, readout), atol=2e-6, rtol=1e-5)
    # A change that reaches below the head, where no layer can be left out.
    lower = {"layers.0.attention.heads": torch.ones(4, 8)}
    deep = alone(heads, rows, readout, lambda head: moved([(0, 1)], lower, 0.1 * head.head), "2.0 2.3")
    with torch.inference_mode():
        plain, changed = (
            readout(last_vectors(heads.backbone, rows, c)) for c in (None, moved([(0, 1)], lower, 0.3))
        )
    close(deep[:, 2, 3], changed - plain)
    assert not deep[:, 2, 0].any()
    assert deep[:, [0, 1]].isnan().all()


def test_rows_are_asked_batch_by_batch_and_the_best_change_is_taken() -> None:
    backbone, rows = backbone_of("gpt2"), batch()
    asked = {rows: readout, rows.repeated(2): lambda vectors: 2 * readout(vectors)}
    with torch.inference_mode():
        found = answered(backbone, asked, lambda some, past: scaled([(1, 1)], 0.5))
        one = readout(last_vectors(backbone, rows, scaled([(1, 1)], 0.5)))
    close(found, torch.cat([one, 2 * one, 2 * one]))
    factors = [1.0, -1.0, 0.5, 3.0]
    candidates = [(f, lambda some, past, f=f: scaled([(1, 1)], f)) for f in factors]
    with torch.inference_mode():
        means = [float(answered(backbone, asked, changing).mean()) for _, changing in candidates]
    assert best_of(backbone, asked, candidates) == (factors[means.index(max(means))], max(means))
    twice = [(1.0, candidates[0][1]), (2.0, candidates[0][1])]
    assert best_of(backbone, asked, twice)[0] == 1.0


def test_a_few_numbers_are_learned_and_no_weight() -> None:
    backbone, rows = backbone_of("llama"), batch()
    before = {name: each.clone() for name, each in backbone.model.named_parameters()}
    target = last_vectors(backbone, rows, scaled([(0, 2)], 0.3)).detach()
    factor = torch.ones(3, 4, requires_grad=True)

    def loss() -> torch.Tensor:
        return (last_vectors(backbone, rows, scaled([(0, 2)], factor)) - target).square().mean()

    losses = descend(backbone, [factor], loss, steps=80, lr=0.05)
    assert losses[-1] < 1e-3 * losses[0]
    assert abs(float(factor.detach()[0, 2]) - 0.3) < 0.02
    assert (factor.detach() != 1).sum() == 1
    for name, each in backbone.model.named_parameters():
        assert torch.equal(each, before[name])
        assert each.grad is None
        assert each.requires_grad


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
@torch.no_grad()
def test_what_is_folded_does_the_same(architecture: str) -> None:
    backbone, rows = backbone_of(architecture), batch()
    heads = AttentionHeads(backbone)
    matrix = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    weights = folded(heads, {(0, 1): 0.0, (2, 3): matrix, (0, 2): -1.5})
    model = copy.deepcopy(backbone.model)
    model.load_state_dict(weights, strict=False)
    factors = torch.tensor([[1.0, 0.0, -1.5, 1.0]]).expand(3, -1)
    changes = then(scaled([(0, 1), (0, 2)], factors), edited([(2, 3)], lambda _, z: z @ matrix))
    wanted = backbone.run(rows, changes=changes)["output"]
    close(Backbone(model).run(rows)["output"], wanted)
    assert len(weights) == 2


def test_a_shared_layer_is_not_folded() -> None:
    with pytest.raises(ConfigError, match="share"):
        folded(AttentionHeads(backbone_of("albert")), {(0, 1): 0.0})


def test_shares_of_answers() -> None:
    backbone, rows = backbone_of("gpt2"), batch()
    torch.manual_seed(0)
    head = nn.Linear(32, 97)
    with torch.inference_mode():
        says = head(last_vectors(backbone, rows)).argmax(1).tolist()
    conflict = Conflict(rows, [*says[:2], 0, 0, 0], [1, 1, *says[2:]])
    assert share(backbone, head, conflict, "context") == pytest.approx(0.4)
    assert share(backbone, head, conflict, "memory") == pytest.approx(0.6)
    with torch.inference_mode():
        logits = head(last_vectors(backbone, rows))
        found = conflict.difference(head)(last_vectors(backbone, rows))
    at = torch.arange(5)
    close(found, logits[at, conflict.context] - logits[at, conflict.memory])
