"""Of an encoder-decoder the encoder is the backbone: loaded alone, saved alone, and the same again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from tests.backbone.models import CONFIGS

WORDS = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    whole = hf.T5ForConditionalGeneration(CONFIGS["t5"])
    whole.save_pretrained(tmp_path / "t5")
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", model_max_length=32
    )
    fast.save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


def test_the_encoder_is_what_runs(folder: Path) -> None:
    backbone = Backbone.load(folder)
    assert backbone.ragged, backbone.why_padded
    batch = RaggedBatch(backbone.tokens.texts(["a b", "b a a"]))
    encoder = hf.T5ForConditionalGeneration.from_pretrained(folder).get_encoder().eval()
    with torch.inference_mode():
        ours = backbone.run(batch)["output"].split(batch.lengths)
        for ids, mine in zip(batch.ids.split(batch.lengths), ours, strict=True):
            theirs = encoder(input_ids=ids[None]).last_hidden_state[0]
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_saved_alone_it_loads_the_same(folder: Path, tmp_path: Path) -> None:
    backbone = Backbone.load(folder)
    backbone.save(tmp_path / "alone")
    again = Backbone.load(tmp_path / "alone")
    assert again.fingerprint == backbone.fingerprint
    batch = RaggedBatch(backbone.tokens.texts(["a b a", "b"]))
    with torch.inference_mode():
        assert torch.equal(backbone.run(batch)["output"], again.run(batch)["output"])
