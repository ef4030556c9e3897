"""Scores and patterns: those of transformers, changed where they are changed and nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.patterns import Seen
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.composing import then
from taskheads.errors import BackboneError
from tests.backbone.models import CONFIGS, DEBERTA, VIT, tiny
from tests.backbone.test_sites import LENGTHS, batch, close, config_of, plain_rows, rows

EVERY = list(CONFIGS)
SITE = "layers.1.attention.pattern"


def both(architecture: str) -> tuple[Backbone, torch.nn.Module]:
    plain = tiny(config_of(architecture))
    backbone = Backbone(copy.deepcopy(plain))
    plain.set_attn_implementation("eager")
    return backbone, plain


@pytest.mark.parametrize("architecture", EVERY)
@torch.inference_mode()
def test_the_pattern_is_that_of_transformers(architecture: str) -> None:
    backbone, plain = both(architecture)
    untouched = backbone.run(batch())["output"]
    shown: list[Seen] = []
    found = backbone.run(batch(), [SITE, "output"], Changes(watched={1: shown.append}))
    assert torch.equal(found["output"], untouched)
    pattern = found[SITE]
    assert pattern.shape == (sum(LENGTHS), 4, max(LENGTHS))
    theirs = plain_rows(plain, output_attentions=True)
    for mine, row, length in zip(pattern.split(LENGTHS), theirs, LENGTHS, strict=True):
        close(mine[..., :length].transpose(0, 1), row.attentions[1][0])
        assert not mine[..., length:].any()
    # Seen in pieces it is the same.
    for piece in shown:
        for row, weights in zip(piece.rows, piece.weights, strict=True):
            whole = theirs[row].attentions[1][0]
            close(weights, whole[:, piece.queries, : weights.shape[2]])
    assert sum(len(piece.rows) * len(piece.queries) for piece in shown) == sum(LENGTHS)


def test_long_rows_are_seen_in_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from taskheads.backbone import patterns

    backbone, _ = both("llama")
    monkeypatch.setattr(patterns, "_AT_ONCE", 80)
    shown: list[Seen] = []
    with torch.inference_mode():
        pattern = backbone.run(batch(), [SITE], Changes(watched={1: shown.append}))[SITE].split(LENGTHS)
    assert len(shown) > len(set(LENGTHS))
    for piece in shown:
        assert piece.weights.shape[3] == piece.start + len(piece.queries)  # nothing after the last query
        for row, weights in zip(piece.rows, piece.weights, strict=True):
            close(weights, pattern[row][piece.queries].transpose(0, 1)[..., : weights.shape[2]])


@pytest.mark.parametrize("architecture", EVERY)
@torch.inference_mode()
def test_a_changed_pattern_mixes_the_values(architecture: str) -> None:
    backbone, _ = both(architecture)
    sites = [SITE, "layers.1.attention.value", "layers.1.attention.heads"]
    plain = backbone.run(batch(), sites)

    def uniform(weights: torch.Tensor) -> torch.Tensor:
        seen = weights > 0
        made = weights.clone()
        made[5:, 2] = (seen / seen.sum(-1, keepdim=True))[5:, 2]
        return made

    found = backbone.run(batch(), sites, {SITE: uniform})
    each_row = zip(*(found[site].split(LENGTHS) for site in sites), strict=True)
    for (weights, value, heads), length in zip(each_row, LENGTHS, strict=True):
        value = value.repeat_interleave(4 // value.shape[1], 1)
        close(heads, torch.einsum("qhk,khd->qhd", weights[..., :length], value))
    same = torch.ones(sum(LENGTHS), 4, dtype=torch.bool)
    same[5:, 2] = False
    assert torch.equal(found[sites[2]][same], plain[sites[2]][same])
    assert not torch.equal(found[sites[2]][5:, 2], plain[sites[2]][5:, 2])


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "modernbert", "t5"])
@torch.inference_mode()
def test_scores_that_are_blocked_leave_rows_that_sum_to_1(architecture: str) -> None:
    backbone, _ = both(architecture)
    site = "layers.1.attention.scores"

    def block(scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, :2, 0] = -torch.inf
        return scores

    found = backbone.run(batch(), [site, SITE], {site: block})
    weights = found[SITE]
    assert not weights[:, :2, 0].any()
    somewhere = ~found[site].isneginf().all(-1)
    close(weights.sum(-1), somewhere.float())  # a row of one token has nowhere else to look
    plain = backbone.run(batch(), [SITE])[SITE]
    assert torch.equal(weights[:, 2:], plain[:, 2:])


@torch.inference_mode()
def test_one_row_changed_leaves_the_others_bit_for_bit() -> None:
    backbone, _ = both("bert")
    plain = backbone.run(batch())["output"].split(LENGTHS)

    def first_row(weights: torch.Tensor) -> torch.Tensor:
        return torch.cat([weights[:5].roll(1, -1), weights[5:]])

    changed = backbone.run(batch(), ["output"], {SITE: first_row})["output"].split(LENGTHS)
    assert not torch.equal(changed[0], plain[0])
    assert all(torch.equal(a, b) for a, b in zip(changed[1:], plain[1:], strict=True))


def test_gradients_reach_a_change_that_changes_nothing_yet() -> None:
    backbone, _ = both("gpt2")
    offset = torch.zeros(4, 1, requires_grad=True)
    backbone.run(batch(), changes={"layers.1.attention.scores": lambda s: s + offset * torch.arange(9)})[
        "output"
    ].square().sum().backward()
    assert offset.grad is not None
    assert offset.grad.abs().max() > 1e-3


@torch.inference_mode()
def test_images_have_patterns_too() -> None:
    plain = tiny(copy.deepcopy(VIT))
    backbone = Backbone(copy.deepcopy(plain))
    plain.set_attn_implementation("eager")
    pixels = torch.randn(3, 3, 8, 8)
    theirs = plain(pixel_values=pixels, output_attentions=True).attentions[1]
    found = backbone.run(backbone.images(pixels), [SITE])[SITE]
    close(found.unflatten(0, (3, -1)).transpose(1, 2), theirs)


@torch.inference_mode()
def test_a_pass_ends_in_the_attention_that_is_read_last() -> None:
    backbone, _ = both("gpt2")
    ran: list[str] = []
    for name in (backbone.layout.maps[0].mlp[-1], backbone.layout.maps[1].attention_output):
        module = backbone.model.get_submodule(name)
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    backbone.run(batch(), ["layers.1.attention.heads"])
    assert ran == [backbone.layout.maps[0].mlp[-1]]
    backbone.run(RaggedBatch(rows()[:1]), ["layers.1.output"])
    assert len(ran) == 3


def test_who_watches() -> None:
    backbone, _ = both("gpt2")
    first: list[Seen] = []
    second: list[Seen] = []
    watching = then(Changes(watched={0: first.append, 1: first.append}), Changes(watched={1: second.append}))
    backbone.run(batch(), (), watching)
    assert len(first) == 2 * len(second) > 0
    with pytest.raises(BackboneError, match="no layer 3"):
        backbone.run(batch(), (), Changes(watched={3: first.append}))
    padded = Backbone(tiny(copy.deepcopy(DEBERTA)))
    with pytest.raises(BackboneError, match="runs padded"):
        padded.run(batch(), (), Changes(watched={0: first.append}))
