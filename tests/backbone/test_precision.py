"""A backbone whose weights have fewer bits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from taskheads.backbone import attention
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import BackboneError
from tests.backbone.models import CONFIGS, LOW, lowered, tiny
from tests.backbone.test_sites import rows


@LOW
@pytest.mark.parametrize("architecture", ["bert", "llama", "modernbert"])
@torch.inference_mode()
def test_a_lowered_backbone_is_close_to_the_whole(precision: str, architecture: str) -> None:
    batch = RaggedBatch(rows(0))
    whole = Backbone(tiny(copy.deepcopy(CONFIGS[architecture]))).run(batch)["output"]
    low = lowered(precision, architecture)
    assert low.ragged
    found = low.run(batch)["output"].float()
    assert torch.nn.functional.cosine_similarity(found, whole).min() > 0.99
    assert not torch.equal(found, whole)


@LOW
@torch.inference_mode()
def test_real_weights_run_without_padding_and_say_nearly_the_same(precision: str, minilm: Backbone) -> None:
    low = Backbone.load("minilm", precision=precision)
    assert low.why_padded is None
    assert minilm.tokens is not None
    texts = minilm.tokens.texts(["book a table", "a", "What is the capital of the country next to this one?"])
    found, whole = (each.run(RaggedBatch(texts))["output"].float() for each in (low, minilm))
    assert torch.nn.functional.cosine_similarity(found, whole).min() > 0.998


def test_rows_that_are_mixed_are_seen_in_few_bits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that goes over all rows, whatever it is told."""
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def over_all(_module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> torch.Tensor:
        return sdpa(query, key, value).transpose(1, 2)

    monkeypatch.setattr(attention, "_attend_within_rows", over_all)
    for precision in ("float32", "bfloat16"):
        low = Backbone(tiny(copy.deepcopy(CONFIGS["bert"])), precision=precision)
        assert low.why_padded == "BertModel mixes rows when it runs without padding"


def test_what_cannot_be_lowered_is_refused() -> None:
    with pytest.raises(BackboneError, match="int4"):
        lowered("int4")
    with pytest.raises(BackboneError, match="no linear maps"):
        lowered("int8", "gpt2")
