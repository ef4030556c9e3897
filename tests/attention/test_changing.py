"""Changes of attention heads: what they say, where they say it, gone without a trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from taskheads.attention.changed import Changed
from taskheads.attention.changing import (
    blocked,
    edited,
    moved,
    patched,
    replaced,
    reweighted,
    scaled,
    site_of,
)
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.paths import direct_path, head_outputs, path_patched
from taskheads.attention.planted import plant, prompts
from taskheads.attention.where import At
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.generating import generate
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.edits.composing import then
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import LENGTHS, batch, close

HEADS = [(0, 1), (0, 3), (2, 2)]
SITES = [site_of(layer) for layer in range(3)]


def other_rows() -> RaggedBatch:
    generator = np.random.default_rng(7)
    return RaggedBatch([Encoded(generator.integers(3, 97, length)) for length in LENGTHS])


def mask_of(heads: list[tuple[int, int]], layer: int) -> torch.Tensor:
    return torch.tensor([(layer, head) in heads for head in range(4)])


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
@torch.inference_mode()
def test_each_change_says_what_stands_at_its_heads(architecture: str) -> None:
    backbone = backbone_of(architecture)
    plain = backbone.run(batch(), [SITES[0]])[SITES[0]]
    donor = backbone.run(other_rows(), SITES)
    table = torch.rand(3, 4)
    at = At([0, -1]).tokens(batch())
    mine = mask_of(HEADS, 0)
    cases = {
        "zero": (scaled(HEADS, 0, tokens=at), 0 * plain),
        "scale": (scaled(HEADS, table, tokens=at), plain * table[0, :, None]),
        "resample": (replaced(HEADS, donor, tokens=at), donor[SITES[0]]),
        "mean": (
            replaced(HEADS, {site: each.mean(0) for site, each in donor.items()}, tokens=at),
            donor[SITES[0]].mean(0).expand_as(plain),
        ),
        "share": (
            replaced(HEADS, donor, table, tokens=at),
            plain * (1 - table[0, :, None]) + donor[SITES[0]] * table[0, :, None],
        ),
        "offset": (moved(HEADS, donor, 2.0, tokens=at), plain + 2 * donor[SITES[0]]),
        "any": (edited(HEADS, lambda _, z: z.square(), tokens=at), plain.square()),
    }
    for name, (changes, wanted) in cases.items():
        found = backbone.run(batch(), [SITES[0]], changes)[SITES[0]]
        expected = torch.where(at[:, None, None] & mine[:, None], wanted, plain)
        assert torch.equal(found, expected), name


@pytest.mark.parametrize("part", ["query", "key", "value", "heads", "scores", "pattern"])
@torch.inference_mode()
def test_a_scale_of_1_and_no_change_are_the_backbone_itself(part: str) -> None:
    backbone = backbone_of("gpt2")
    plain = backbone.run(batch())["output"]
    assert torch.equal(backbone.run(batch(), changes=scaled(HEADS, 1.0, part=part))["output"], plain)
    for changes in (scaled(HEADS, 0.5), moved(HEADS, backbone.run(batch(), SITES))):
        assert not torch.equal(backbone.run(batch(), changes=changes)["output"], plain)
        assert torch.equal(backbone.run(batch())["output"], plain)


@torch.inference_mode()
def test_changes_compose_in_order() -> None:
    backbone = backbone_of("llama")
    plain = backbone.run(batch(), [SITES[0]])[SITES[0]]
    both = then(scaled([(0, 1)], 2.0), moved([(0, 1), (0, 2)], {SITES[0]: torch.ones(4, 8)}))
    found = backbone.run(batch(), [SITES[0]], both)[SITES[0]]
    wanted = plain.clone()
    wanted[:, 1] = wanted[:, 1] * 2 + 1
    wanted[:, 2] += 1
    assert torch.equal(found, wanted)


@torch.inference_mode()
def test_patching_everything_gives_the_other_run() -> None:
    backbone = backbone_of("gpt2")
    donor = backbone.run(other_rows(), ["layers.1.output", "output"])
    found = backbone.run(batch(), changes=patched({"layers.1.output": donor["layers.1.output"]}))["output"]
    close(found, donor["output"])
    last = At([-1]).tokens(batch())
    some = backbone.run(
        batch(), ["layers.1.output"], patched({"layers.1.output": donor["layers.1.output"]}, last)
    )
    plain = backbone.run(batch(), ["layers.1.output"])["layers.1.output"]
    wanted = torch.where(last[:, None], donor["layers.1.output"], plain)
    assert torch.equal(some["layers.1.output"], wanted)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
@torch.inference_mode()
def test_blocked_edges_carry_nothing_and_the_rest_share_their_weight(architecture: str) -> None:
    backbone = backbone_of(architecture)
    rows = batch()
    edges = At([-1]).tokens(rows)[:, None] & At([1]).keys(rows)
    sites = ["layers.1.attention.pattern", "layers.1.attention.heads"]
    plain, found = (backbone.run(rows, sites, c) for c in (Changes(), blocked([(1, 2)], edges)))
    before, after = plain[sites[0]][:, 2], found[sites[0]][:, 2]
    assert not after[edges].any()
    left = before.masked_fill(edges, 0)
    close(after, left / left.sum(-1, keepdim=True))
    untouched = ~edges.any(1)
    assert torch.equal(found[sites[1]][untouched], plain[sites[1]][untouched])
    assert torch.equal(found[sites[1]][:, [0, 1, 3]], plain[sites[1]][:, [0, 1, 3]])


@torch.inference_mode()
def test_reweighting_is_scaling_and_normalising() -> None:
    backbone = backbone_of("gpt2")
    rows = batch()
    edges = At([0]).keys(rows)
    site = "layers.1.attention.pattern"
    plain = backbone.run(rows, [site])[site]
    for factor in (0.25, torch.full((3, 4), 0.25)):
        found = backbone.run(rows, [site], reweighted([(1, 0), (1, 3)], edges, factor))[site]
        wanted = torch.where(edges[:, None], plain * 0.25, plain)
        wanted = wanted / wanted.sum(-1, keepdim=True)
        close(found[:, [0, 3]], wanted[:, [0, 3]])
        assert torch.equal(found[:, [1, 2]], plain[:, [1, 2]])


def test_where_tokens_and_keys_are() -> None:
    rows = RaggedBatch([Encoded(np.arange(3, 6)), Encoded(np.arange(3, 5))], rows=[7, 2])
    assert At().tokens(rows).tolist() == [True] * 5
    assert At([-1]).tokens(rows).tolist() == [False, False, True, False, True]
    assert At([0, -2], rows=[2]).tokens(rows).tolist() == [False, False, False, True, False]
    assert At([-1]).keys(rows).tolist() == [[False, False, True]] * 3 + [[False, True, False]] * 2
    assert At(rows=[2]).keys(rows).tolist() == [[False] * 3] * 3 + [[True, True, False]] * 2
    # One token each, after three and one that came before.
    step = RaggedBatch([Encoded(np.array([9])), Encoded(np.array([9]))])
    assert At([3]).tokens(step, [3, 1]).tolist() == [True, False]
    assert At([-1]).keys(step, [3, 1]).tolist() == [[False, False, False, True], [False, True, False, False]]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@torch.inference_mode()
def test_in_generation_a_change_holds_for_every_step(architecture: str) -> None:
    planted = plant(architecture, {"retrieval": (1, 5), "copy": (2, 6)})  # type: ignore[arg-type]
    backbone, asked = planted.backbone, prompts("retrieval", 4)

    def loud(rows: RaggedBatch, past: Sequence[int]) -> Changes:
        return scaled([planted.heads["copy"]], 8.0, tokens=At([-1], rows=[1, 3]).tokens(rows, past))

    def longhand(row: Encoded, number: int) -> list[int]:
        ids = row.ids.tolist()
        for _ in range(4):
            one = RaggedBatch([Encoded(np.array(ids))], [number])
            # Every position that was last in its time was changed then.
            at = torch.tensor([place >= len(row) - 1 for place in range(len(ids))]) & (number in (1, 3))
            output = backbone.run(one, changes=scaled([planted.heads["copy"]], 8.0, tokens=at))["output"]
            ids.append(int(planted.head(output[-1]).argmax()))
        return ids[len(row) :]

    rows = RaggedBatch(asked.rows)
    found = generate(Changed(backbone, loud), planted.head, rows, most=4)
    assert found == [longhand(row, number) for number, row in enumerate(asked.rows)]
    assert [found[n][0] for n in (1, 3)] == [int(asked.rows[n].ids[-1]) for n in (1, 3)]
    plain = generate(backbone, planted.head, rows, most=4)
    assert (found[0], found[2]) == (plain[0], plain[2])
    assert found != plain


@torch.inference_mode()
def test_patching_a_head_of_a_planted_pair_moves_the_answer() -> None:
    planted = plant("llama", ["retrieval"])
    heads, asked = AttentionHeads(planted.backbone), prompts("retrieval", 6)
    rows = RaggedBatch(asked.rows)
    last = At([-1]).tokens(rows)

    def right(changes: Changes | None = None) -> float:
        output = planted.backbone.run(rows, changes=changes)["output"][last]
        return float((planted.head(output).argmax(1).numpy() == asked.answers).mean())

    assert right() == 1
    for job in ("retrieval", "previous"):
        assert right(scaled([planted.heads[job]], 0)) < 0.5
        rest = [head for head in heads.which() if head not in planted.heads.values()]
        assert right(scaled(rest, 0)) == 1


@torch.inference_mode()
def test_a_path_is_the_only_way() -> None:
    planted = plant("gpt2", ["retrieval"])
    heads, asked = AttentionHeads(planted.backbone), prompts("retrieval", 6)
    rows = RaggedBatch(asked.rows)
    last = At([-1]).tokens(rows)
    clean = head_outputs(heads, rows)
    silent = {site: torch.zeros_like(each) for site, each in clean.items()}
    previous, retrieval = planted.heads["previous"], planted.heads["retrieval"]

    def right(changes: Changes) -> float:
        output = planted.backbone.run(rows, changes=changes)["output"][last]
        return float((planted.head(output).argmax(1).numpy() == asked.answers).mean())

    # What the one writes reaches the answer through the other's keys, and on no direct way.
    assert right(direct_path(heads, [previous], silent, clean)) == 1
    assert right(direct_path(heads, [retrieval], silent, clean)) < 0.5
    assert right(path_patched(heads, rows, [previous], [retrieval], silent, clean)) < 0.5
    assert right(path_patched(heads, rows, [previous], [retrieval], silent, clean, ["key"])) < 0.5
    assert right(path_patched(heads, rows, [previous], [retrieval], silent, clean, ["value"])) == 1
    others = [head for head in heads.which() if head.layer == 2 and head != retrieval]
    assert right(path_patched(heads, rows, [previous], others, silent, clean)) == 1


@torch.inference_mode()
def test_patching_with_itself_changes_nothing() -> None:
    backbone = backbone_of("llama")
    heads = AttentionHeads(backbone)
    clean = head_outputs(heads, batch())
    plain = backbone.run(batch())["output"]
    for changes in (
        direct_path(heads, "0.*", clean, clean),
        path_patched(heads, batch(), "0.1", "1.* 2.3", clean, clean),
    ):
        assert torch.equal(backbone.run(batch(), changes=changes)["output"], plain)


def test_a_changed_backbone_is_kept_apart() -> None:
    backbone = backbone_of("bert")
    changed = Changed(backbone, lambda rows, past: scaled(HEADS, 0.0))
    assert changed.fingerprint not in (backbone.fingerprint, Changed(backbone, changed.changing).fingerprint)
    assert isinstance(changed, Backbone)
