"""The context knob: one direction, and nothing but it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from taskheads.attention.asked import last_vectors
from taskheads.attention.changed import Changed
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import log_probability
from taskheads.attention.planted import Planted, plant
from taskheads.attention.planted.wiring import ASKING, ATTRIBUTES, FACTS, LETTERS, OPENING, SUBJECTS
from taskheads.attention.steer.context_knob_subspace import ContextKnob, Swap, along, layer_effects
from taskheads.attention.where import At
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.generating import generate
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.edits.maps import weight_of
from taskheads.errors import ConfigError
from tests.attention.test_heads import backbone_of
from tests.backbone.models import tiny
from tests.backbone.test_sites import batch

# What a row is told by the token before its last: to ask, or nothing at all.
INTENTS = {"context": ASKING, "memory": LETTERS[0]}
# Of the query that the head which reads the context was planted with, how much is left: it may be in doubt.
SHARPNESS = 0.15


@pytest.mark.method("context_knob_subspace")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.no_grad()
def test_nothing_changes_but_what_stands_along_the_direction(architecture: str) -> None:
    backbone, rows = backbone_of(architecture), batch()
    u = nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(0)), dim=0)
    site, last = "layers.1.output", At([-1]).tokens(rows)
    knob = ContextKnob(1, u, {"context": 4.0})
    before = backbone.run(rows, [site])[site]
    once = backbone.run(rows, [site], knob.at("context")(rows, [0] * 5))[site]
    across = torch.eye(32) - torch.outer(u, u)
    torch.testing.assert_close(once @ across, before @ across, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(once[last] @ u, torch.full((5,), 4.0))
    assert torch.equal(once[~last], before[~last])
    again = along(1, u, 4.0, rows).sites[site](once)
    torch.testing.assert_close(again, once, atol=1e-6, rtol=1e-6)
    # A swap with the row itself, and one that brings each row another's.
    swap = Swap(rows, rows, lambda vectors: vectors.sum(-1), "same")
    same = backbone.run(rows, [site], knob.swapped(backbone, swap))[site]
    torch.testing.assert_close(same, before, atol=1e-6, rtol=1e-6)
    other = along(1, u, (before[last] @ u).flip(0), rows)
    assert torch.allclose(
        backbone.run(rows, [site], other)[site][last] @ u, (before[last] @ u).flip(0), atol=1e-5
    )


def sensitive() -> Planted:
    """A model that answers a subject with what the context says of it where it is told to ask, in the token
    before the last, and else with what it knows. That token's name is in the stream from layer 0 on; what it
    is answered with comes in layer 2."""
    planted = plant("gpt2", ["retrieval", "memory"])
    heads = AttentionHeads(planted.backbone)
    layer, head = planted.heads["retrieval"]
    with torch.no_grad():
        heads.output_weight(layer)[head] *= 2
        mine = slice(head * heads.width, (head + 1) * heads.width)
        weight_of(planted.backbone, f"h.{layer}.attn.c_attn")[mine] *= SHARPNESS
    return planted


def swaps(head: nn.Module, subjects: Sequence[int], seed: int) -> list[Swap]:
    """Rows of either intent, with rows of the other intent that say another thing of the same subject."""
    draw = np.random.default_rng(seed)
    made = []
    for told, other in (("context", "memory"), ("memory", "context")):
        base, source, wanted = [], [], []
        for subject in draw.choice(subjects, 40).tolist():
            says, else_ = draw.permutation([a for a in ATTRIBUTES if a != FACTS[subject]])[:2].tolist()
            base.append(prompt(told, subject, says, draw))
            source.append(prompt(other, subject, else_, draw))
            wanted.append(says if other == "context" else FACTS[subject])
        made.append(Swap(RaggedBatch(base), RaggedBatch(source), log_probability(head, wanted), other))
    return made


def prompt(intent: str, subject: int, says: int, draw: np.random.Generator) -> Encoded:
    letters = draw.permutation(LETTERS[1:]).tolist()
    size = int(draw.integers(1, 5))
    return Encoded(
        np.array(
            [OPENING, *letters[:size], subject, says, *letters[size : size + 2], INTENTS[intent], subject]
        )
    )


@pytest.mark.method("context_knob_subspace")
def test_one_direction_turns_the_answer_and_a_random_one_does_not() -> None:
    planted = sensitive()
    backbone, head = planted.backbone, planted.head
    learning, held_out = swaps(head, SUBJECTS[:4], 1), swaps(head, SUBJECTS[4:], 2)
    knob = ContextKnob.fit(backbone, learning, steps=25)
    # After the last layer the stream holds the source's answer, which nobody asked for.
    heights = layer_effects(backbone, learning)
    assert knob.layer == int(heights.argmax()) < 2
    assert heights[2] < heights[:2].min() - 1
    assert abs(float(knob.direction.norm()) - 1) < 1e-6

    def turned(some: ContextKnob) -> float:
        """The share of rows which more likely than not are answered as the intent of the source demands."""
        found = []
        with torch.inference_mode():
            for swap in held_out:
                vectors = last_vectors(backbone, swap.base, some.swapped(backbone, swap))
                found.append((swap.wanted(vectors) > np.log(0.5)).float())
        return float(torch.cat(found).mean())

    assert turned(knob) > 0.9
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        random = nn.functional.normalize(torch.randn(256, generator=draw), dim=0)
        assert turned(ContextKnob(knob.layer, random, {})) < 0.1
    # As a constant, whatever a row was told; under generation, too.
    for swap in held_out:
        turning = knob.at(swap.intent)
        with torch.inference_mode():
            vectors = last_vectors(backbone, swap.base, turning(swap.base, [0] * 40))
            assert (swap.wanted(vectors) > np.log(0.5)).float().mean() > 0.9
            likeliest = head(vectors).argmax(1)[:, None].tolist()
        assert generate(Changed(backbone, turning), head, swap.base, most=1) == likeliest


@pytest.mark.method("context_knob_subspace")
def test_a_planted_direction_is_found() -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 8, "n_inner": 8}
    model = tiny(hf.GPT2Config(vocab_size=80, **sizes))
    draw = torch.Generator().manual_seed(0)
    planted = nn.functional.normalize(torch.randn(32, generator=draw), dim=0)
    with torch.no_grad():  # the residual stream is the embedding, and nothing else
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        noise = torch.randn(80, 32, generator=draw)
        intent = torch.tensor([1.0, -1.0]).repeat(40)
        model.wte.weight.copy_(noise - torch.outer(noise @ planted, planted) + 2 * intent[:, None] * planted)
    backbone, head = Backbone(model), nn.Linear(32, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.stack([planted, -planted]))

    def swap(first: int, wanted: int) -> Swap:
        rows, others = (
            RaggedBatch([Encoded(np.array([token])) for token in range(start, 80, 2)])
            for start in (first, 1 - first)
        )
        return Swap(rows, others, log_probability(head, [wanted] * 40), str(wanted))

    knob = ContextKnob.fit(backbone, [swap(0, 1), swap(1, 0)], layer=0, steps=20)
    assert abs(float(knob.direction @ planted)) > 0.95
    assert knob.settings["0"] * knob.settings["1"] < 0


def test_rows_without_a_partner_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 rows cannot be swapped with 1"):
        Swap(batch(), RaggedBatch([Encoded(np.array([3]))]), lambda vectors: vectors, "context")
