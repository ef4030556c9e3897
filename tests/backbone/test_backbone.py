"""Loading a backbone, saving it, and telling one from another."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer, T5EncoderModel, T5Model

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.features import extract
from taskheads.backbone.pretrained import source_of
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.reads import Read
from taskheads.backbone.tokens import Tokens
from taskheads.errors import BackboneError
from tests.backbone.models import CONFIGS, DEBERTA, VIT, tiny
from tests.backbone.tokenizers import KINDS

TEXTS = ["A cat.", "Two dogs run across a field.", ""]


def test_a_backbone_that_is_not_there_is_one_clear_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (str(tmp_path / "nothing"), "./nothing", "a/b/c"):
        with pytest.raises(BackboneError, match="is not there: no such folder"):
            Backbone.load(name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "ber')
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.json").write_text('{"model_type": "no-such-architecture"}')
    (tmp_path / "weightless").mkdir()
    CONFIGS["bert"].save_pretrained(tmp_path / "weightless")
    for name in ("empty", "broken", "strange", "weightless"):
        with pytest.raises(BackboneError) as error:
            Backbone.load(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "cannot be loaded" in str(error.value)
        assert "\n" not in str(error.value)


def test_damaged_weights_are_one_clear_sentence(tmp_path: Path) -> None:
    Backbone(tiny(copy.deepcopy(CONFIGS["bert"])), KINDS["wordpiece"]()).save(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BackboneError, match="cannot be loaded") as error:
        Backbone.load(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_weights_are_not_made_up(tmp_path: Path) -> None:
    backbone = Backbone(tiny(copy.deepcopy(CONFIGS["bert"])), KINDS["wordpiece"]())
    backbone.save(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    tensors = load_file(weights)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(
        BackboneError, match=r"lack 1 of its weights, encoder\.layer\.1\.output\.dense\.weight"
    ):
        Backbone.load(tmp_path)


def test_a_checkpoint_without_a_pooler_loads(tmp_path: Path) -> None:
    model = AutoModelForMaskedLM.from_config(copy.deepcopy(CONFIGS["bert"]))
    model.save_pretrained(tmp_path)
    KINDS["wordpiece"]().save_pretrained(tmp_path)
    loaded = Backbone.load(tmp_path)
    weight = model.bert.encoder.layer[0].output.dense.weight
    assert torch.equal(loaded.model.encoder.layer[0].output.dense.weight, weight)


def test_of_an_encoder_decoder_the_encoder_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = T5Model(copy.deepcopy(CONFIGS["t5"])).eval()
    plain.save_pretrained(tmp_path)
    KINDS["unigram"]().save_pretrained(tmp_path)
    loaded = Backbone.load(tmp_path)
    assert loaded.tokens is not None
    batch = RaggedBatch(loaded.tokens.texts(["the fox", "a lazy dog"]))
    with torch.inference_mode():
        mine = loaded.run(batch)["output"].split(batch.lengths)
        for row, got in zip(batch.ids.split(batch.lengths), mine, strict=True):
            expected = plain.get_encoder()(input_ids=row[None]).last_hidden_state[0]
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5", "modernbert"])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, architecture: str) -> None:
    kind = {"gpt2": "byte_level", "t5": "unigram"}.get(architecture, "wordpiece")
    config = copy.deepcopy(CONFIGS[architecture])
    config.vocab_size = 330 if kind == "byte_level" else config.vocab_size
    # Of an encoder-decoder the encoder is loaded, as the class that holds it alone.
    model = T5EncoderModel(config).eval() if architecture == "t5" else tiny(config)
    backbone = Backbone(model, KINDS[kind](), limit=20)
    backbone.save(tmp_path)
    loaded = Backbone.load(tmp_path, limit=20)
    assert type(loaded.model) is type(model)
    assert loaded.ragged
    assert loaded.layout.names == backbone.layout.names
    read = Read("output", "mean")
    mine, theirs = (
        extract(each, "text", ["the lazy fox", "dog"], [read])[read] for each in (backbone, loaded)
    )
    assert torch.equal(mine, theirs)


def test_a_vision_backbone_is_saved_and_loaded(tmp_path: Path) -> None:
    backbone = Backbone(tiny(copy.deepcopy(VIT)))
    backbone.save(tmp_path)
    loaded = Backbone.load(tmp_path)
    pixels = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(*(each.run(each.images(pixels))["output"] for each in (backbone, loaded)))


def test_the_limit_is_what_tokenizer_and_positions_allow() -> None:
    assert Backbone(tiny(copy.deepcopy(CONFIGS["bert"])), KINDS["wordpiece"]()).limit == 40
    # RoBERTa's positions count on from the padding id: two of them are never used.
    roberta = Backbone(tiny(copy.deepcopy(CONFIGS["roberta"])), KINDS["wordpiece"]())
    assert roberta.limit == 38
    long = "the lazy dog " * 50
    read = Read("output", "mean")
    assert torch.isfinite(extract(roberta, "text", [long], [read])[read]).all()


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(BackboneError, match="Slow is a slow tokenizer"):
        Tokens(Slow(), 10)


def test_the_fingerprint_tells_backbones_apart(minilm: Backbone) -> None:
    def fresh(**how: object) -> Backbone:
        model = AutoModel.from_pretrained(source_of("minilm"))
        return Backbone(model, AutoTokenizer.from_pretrained(source_of("minilm")), **how)  # type: ignore[arg-type]

    same = fresh(name="under another name")
    assert same.fingerprint == minilm.fingerprint
    extract(same, "text", TEXTS, [Read("output", "mean")])
    same.tokens.tokenizer(TEXTS, padding=True, truncation=True, max_length=8)
    assert same.fingerprint == minilm.fingerprint
    assert fresh(limit=100).fingerprint != minilm.fingerprint
    with torch.no_grad():
        same.model.encoder.layer[3].output.dense.bias[7] += 1e-7
    assert same.fingerprint != minilm.fingerprint
    half = fresh()
    half.model.to(torch.bfloat16)
    assert half.fingerprint != minilm.fingerprint


def test_the_fingerprint_depends_on_tokenizer_and_architecture() -> None:
    def fingerprint(architecture: str = "bert", kind: str = "wordpiece", seed: int = 0) -> str:
        return Backbone(tiny(copy.deepcopy(CONFIGS[architecture]), seed), tokenizers[kind]).fingerprint

    tokenizers = {kind: make() for kind, make in KINDS.items()}
    every = [fingerprint(), fingerprint(kind="unigram"), fingerprint(seed=1), fingerprint("electra")]
    assert fingerprint() == every[0]
    assert len(set(every)) == len(every)


def test_the_fingerprint_is_the_same_in_every_process(minilm: Backbone) -> None:
    code = "from taskheads.backbone.backbone import Backbone; print(Backbone.load('minilm').fingerprint)"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == minilm.fingerprint


def test_width_of_a_site_is_that_of_its_reads() -> None:
    for config in (CONFIGS["llama"], CONFIGS["albert"], DEBERTA):
        backbone = Backbone(tiny(copy.deepcopy(config)), KINDS["wordpiece"]())
        for site in backbone.layout.names:
            assert backbone.tokens is not None
            batch = RaggedBatch(backbone.tokens.texts(["the fox"]))
            assert backbone.run(batch, [site])[site].flatten(1).shape[1] == backbone.width_of(site)


def test_a_tokenizer_of_the_wheel_is_not_cut_at_128(minilm: Backbone) -> None:
    # Its tokenizer.json says 128, its model 512.
    assert minilm.tokens is not None
    assert len(minilm.tokens.texts(["dog " * 400])[0]) == 402
