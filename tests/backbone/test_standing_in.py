"""Parts of a pass that are given and do not run, and copies of rows."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Attended, Changes, Lower
from taskheads.backbone.cutting import Cut, Cuts
from taskheads.backbone.hearing import Heard
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.backbone.standing_in import standing_in
from taskheads.edits.composing import then
from taskheads.errors import BackboneError
from tests.backbone.models import tiny
from tests.backbone.test_sites import batch, close, config_of


def backbone_of(architecture: str) -> Backbone:
    return Backbone(tiny(config_of(architecture)))


@torch.inference_mode()
def test_a_block_of_attention_that_is_given_does_not_run() -> None:
    backbone = backbone_of("gpt2")
    name = backbone.layout.maps[1].attention_output
    heard = Heard([name])
    plain = backbone.run(batch(), ["output", "layers.2.attention.heads"], heard.changes)
    block = heard.outputs[name][0]
    again = Heard([name])
    given = Changes(maps=again.changes.maps, attended=Attended(1, block))
    found = backbone.run(batch(), ["output", "layers.2.attention.heads"], given)
    for site, each in plain.items():  # layer 2 is still layer 2
        assert torch.equal(found[site], each)
    assert not again.outputs[name]
    moved = backbone.run(batch(), changes=Changes(attended=Attended(1, block + 1)))["output"]
    assert not torch.equal(moved, plain["output"])
    with pytest.raises(BackboneError, match="gave before"):
        then(given, Changes())


def test_a_stand_in_is_seen_by_its_own_thread_alone() -> None:
    module = torch.nn.Linear(2, 2)
    x, heard = torch.ones(1, 2), []
    with standing_in([module], lambda forward, x: forward(x) + 1):
        mine = module(x)
        thread = threading.Thread(target=lambda: heard.append(module(x)))
        thread.start()
        thread.join()
    assert torch.equal(mine, module(x) + 1)
    assert torch.equal(heard[0], module(x))
    assert "forward" not in vars(module)
    with pytest.raises(ZeroDivisionError), standing_in([module], lambda forward, x: 1 / 0):
        module(x)
    assert "forward" not in vars(module)


@torch.inference_mode()
def test_rows_again_and_their_last_tokens() -> None:
    rows = RaggedBatch([Encoded(np.arange(3, 6)), Encoded(np.arange(6, 8))], [4, 9], [("a", 1), ("b", 1)])
    twice = rows.repeated(2)
    assert twice.ids.tolist() == rows.ids.tolist() * 2
    assert (twice.lengths, twice.rows) == ([3, 2, 3, 2], [4, 9, 4, 9])
    assert twice.tasks == (("a", 1), ("b", 1)) * 2
    ends, at = rows.ends()
    assert (ends.ids.tolist(), at.tolist(), ends.lengths) == ([5, 7], [2, 4], [1, 1])
    backbone = backbone_of("llama")
    plain = backbone.run(rows)["output"]
    close(backbone.run(twice)["output"], plain.repeat(2, 1))


@torch.inference_mode()
def test_keys_that_come_before_go_with_layers_that_were_taken() -> None:
    class Before:
        def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
            self.keys, self.values, self.lengths = keys, values, [4]

        def of(self, layer: int, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            return self.keys[None, :4], self.values[None, :4]

    backbone = backbone_of("llama")
    row = RaggedBatch([Encoded(np.arange(3, 8))])
    sites = ["layers.1.output", "layers.2.attention.key", "layers.2.attention.value", "output"]
    found = backbone.run(row, sites)
    ends, at = row.ends()
    before = Before(found[sites[1]], found[sites[2]])
    lower = Lower(2, found[sites[0]][at][None])
    close(backbone.run(ends, changes=Changes(past=before, lower=lower))["output"], found["output"][-1:])
    with pytest.raises(BackboneError, match="below layer 2"):
        backbone.run(ends, changes=Changes(past=before, lower=Lower(2)))


@torch.no_grad()
def test_cut_maps_are_what_is_left_of_them() -> None:
    model = tiny(config_of("gpt2"))
    attention = model.h[0].attn.c_attn  # type: ignore[union-attr,index]
    x, whole = torch.randn(3, 32), attention.weight.clone()
    Cuts({"h.0.attn.c_attn": Cut(inputs=[1, 5], outputs=[0, 2, 7])}).apply(model)
    close(attention(x[:, :2]), x[:, :2] @ whole[[1, 5]][:, [0, 2, 7]] + attention.bias)
    assert (attention.nx, attention.nf) == (2, 3)
    again = Cuts.of(model.config)
    assert again is not None
    assert again.maps["h.0.attn.c_attn"] == Cut([1, 5], [0, 2, 7])
    with pytest.raises(BackboneError, match="no linear map"):
        Cuts({"h.0.ln_1": Cut(outputs=[0])}).apply(model)
