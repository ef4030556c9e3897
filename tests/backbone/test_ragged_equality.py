"""A ragged pass equals the plain Hugging Face model run on one row at a time: outputs and gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from taskheads.backbone import groups
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.patterns import Block
from taskheads.backbone.ragged import Encoded, RaggedBatch
from tests.backbone.models import CONFIGS, DEBERTA, VIT, tiny

LENGTHS = [7, 1, 12, 7, 3, 12, 1, 20]


def rows(seed: int = 0) -> list[Encoded]:
    generator = np.random.default_rng(seed)
    return [Encoded(generator.integers(3, 97, length)) for length in LENGTHS]


def plain_hidden(model: torch.nn.Module, row: Encoded) -> torch.Tensor:
    return model(input_ids=torch.from_numpy(row.ids)[None]).last_hidden_state[0]


def equal_outputs_and_gradients(backbone: Backbone, plain: torch.nn.Module, batch: RaggedBatch) -> None:
    target = torch.randn(sum(LENGTHS), backbone.width)
    ours = backbone.run(batch)["output"]
    theirs = torch.cat([plain_hidden(plain, row) for row in rows()])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)

    (ours * target).sum().backward()
    (theirs * target).sum().backward()
    compared = 0
    for (name, mine), reference in zip(backbone.model.named_parameters(), plain.parameters(), strict=True):
        if reference.grad is None:
            assert mine.grad is None or not mine.grad.any(), name
            continue
        scale = reference.grad.abs().max().clamp_min(1.0)
        torch.testing.assert_close(mine.grad / scale, reference.grad / scale, atol=1e-5, rtol=1e-4, msg=name)
        compared += 1
    assert compared >= 20


@pytest.mark.parametrize("architecture", CONFIGS)
def test_outputs_and_gradients_equal_the_plain_model(architecture: str) -> None:
    plain = tiny(CONFIGS[architecture])
    backbone = Backbone(copy.deepcopy(plain))
    assert backbone.ragged, backbone.why_padded
    equal_outputs_and_gradients(backbone, plain, RaggedBatch(rows()))


@pytest.mark.parametrize(("price", "count"), [(1 << 12, 1), (60, 4)])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_in_training_rows_of_similar_length_are_padded_and_the_same_comes_out(
    architecture: str, price: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_PAIRS_A_GROUP", price)
    plain = tiny(CONFIGS[architecture])
    backbone = Backbone(copy.deepcopy(plain))
    for module in backbone.model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and (name == "p" or "dropout" in name):
                setattr(module, name, 0.0)
    backbone.train()
    batch = RaggedBatch(rows())
    assert len(batch.padded.groups) == count < len(batch.arranged().groups)
    equal_outputs_and_gradients(backbone, plain, batch)
    seen: list[int] = []
    attend = Block.attend
    monkeypatch.setattr(Block, "attend", lambda self, p: (seen.append(len(self.query)), attend(self, p))[1])
    backbone.run(batch)
    assert sum(seen[:count]) == len(LENGTHS)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_order_of_rows_does_not_matter(architecture: str) -> None:
    backbone = Backbone(tiny(CONFIGS[architecture]))
    with torch.inference_mode():
        straight = backbone.run(RaggedBatch(rows()))["output"].split(LENGTHS)
        turned = backbone.run(RaggedBatch(rows()[::-1]))["output"].split(LENGTHS[::-1])
    for one, other in zip(straight, turned[::-1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_vision_transformer_equals_the_plain_model() -> None:
    plain = tiny(VIT)
    backbone = Backbone(copy.deepcopy(plain))
    pixels = torch.randn(5, 3, 8, 8)
    ours = backbone.run(backbone.images(pixels), ["layers.1.output", "output"])
    theirs = plain(pixel_values=pixels, output_hidden_states=True)
    torch.testing.assert_close(ours["output"], theirs.last_hidden_state.flatten(0, 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours["layers.1.output"], theirs.hidden_states[2].flatten(0, 1))


def test_an_architecture_that_cannot_be_ragged_says_so_and_runs_padded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = tiny(DEBERTA)
    backbone = Backbone(copy.deepcopy(plain))
    assert backbone.why_padded == "DebertaV2Model does not use the attention interface of transformers"
    assert "DebertaV2Model" in caplog.text
    ours = backbone.run(RaggedBatch(rows()))["output"]
    theirs = torch.cat([plain_hidden(plain, row) for row in rows()])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_minilm_equals_the_plain_model(minilm: Backbone) -> None:
    from transformers import AutoModel, AutoTokenizer

    from taskheads.backbone.pretrained import source_of

    plain = AutoModel.from_pretrained(source_of("minilm")).eval()
    tokenizer = AutoTokenizer.from_pretrained(source_of("minilm"))
    texts = ["A cat.", "Two dogs are running across a very green field, barking.", "", "A cat.", "naïve café"]
    batch = RaggedBatch(minilm.tokens.texts(texts))
    with torch.inference_mode():
        ours = minilm.run(batch)["output"].split(batch.lengths)
        for text, mine in zip(texts, ours, strict=True):
            reference = plain(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_rows_that_fill_a_batch_up_leave_its_own_as_they_are(architecture: str) -> None:
    backbone, batch = Backbone(tiny(CONFIGS[architecture])), RaggedBatch(rows())
    filled = batch.filled(80)
    assert (len(filled.ids), sum(filled.lengths), filled.rows[len(batch) :]) == (80, 80, [-1] * 17)
    assert batch.filled(len(batch.ids)) is batch
    with torch.inference_mode():
        ours, theirs = (backbone.run(each)["output"] for each in (filled, batch))
    torch.testing.assert_close(ours[: len(batch.ids)], theirs, atol=1e-5, rtol=1e-5)
