"""Edits on backbones whose weights have fewer bits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import taskheads as th
from taskheads.backbone import attention
from taskheads.backbone.backbone import Backbone
from taskheads.backbone.branching import Branch, branched
from taskheads.backbone.precision import as_floats
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edit import edit_methods, made
from taskheads.edits.edited import Edited, frozen
from taskheads.errors import BackboneError, ConfigError, ModelError
from tests.backbone.models import CONFIGS, tiny
from tests.edits.planted import batch_of, edits_of, rows_of, stirred
from tests.small_models import rows, tiny_backbone, tiny_model
from tests.training.joint.test_editing import answers, suite

LOW = pytest.mark.parametrize("precision", ["bfloat16", "int8"])


def low_backbone(precision: str, architecture: str = "bert") -> Backbone:
    return Backbone(tiny(copy.deepcopy(CONFIGS[architecture])), precision=precision)


@LOW
@pytest.mark.parametrize("architecture", ["bert", "llama", "modernbert"])
@torch.inference_mode()
def test_a_lowered_backbone_is_close_to_the_whole(precision: str, architecture: str) -> None:
    batch = RaggedBatch(rows_of()["first"])
    whole = Backbone(tiny(copy.deepcopy(CONFIGS[architecture]))).run(batch)["output"]
    low = low_backbone(precision, architecture)
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


@LOW
@pytest.mark.parametrize("method", edit_methods())
def test_every_edit_learns_on_it(precision: str, method: str) -> None:
    backbone = low_backbone(precision)
    edits = edits_of(backbone, method)
    with frozen(backbone):
        output = Edited(backbone, edits).run(batch_of(rows_of()))["output"]
        output.float().square().sum().backward()
    parameters = [each for edit in edits.values() for each in edit.parameters()]
    assert all(each.dtype == torch.float32 for each in parameters)
    reached = [each.grad for each in parameters if each.grad is not None]
    assert reached
    assert all(each.isfinite().all() for each in reached)
    assert any(each.any() for each in reached)


@LOW
def test_gradients_are_those_on_the_weights_as_they_stand(precision: str) -> None:
    """Against a float32 backbone whose weights are the lowered ones."""
    low, batch = low_backbone(precision), RaggedBatch(rows_of()["first"])
    plain = tiny(copy.deepcopy(CONFIGS["bert"]))
    plain.load_state_dict({name: each.float() for name, each in as_floats(low.model).items()})
    found = []
    for backbone in (low, Backbone(plain)):
        torch.manual_seed(0)
        edit = stirred(made("lora", backbone, ["first"]))
        weights = torch.randn(len(batch.ids), backbone.width)
        with frozen(backbone):
            output = Edited(backbone, {"first": edit}, "first").run(batch)["output"].float()
            (output * weights).sum().backward()
        found.append(torch.cat([each.grad.flatten() for each in edit.parameters()]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > (0.999 if precision == "int8" else 0.98)


@LOW
def test_a_model_on_it_is_saved_and_answers_again(precision: str, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    low = Backbone(backbone.model, backbone.tokens.tokenizer, name="tiny", precision=precision)
    model = th.fit(suite("topic", "size"), backbone=low, tune="frozen")
    model.edits["size"] = stirred(made("lora", low, ["size"])).eval()
    model.save(tmp_path / "m")
    again = th.load(tmp_path / "m")
    assert again.backbone.precision == precision
    assert again.backbone.fingerprint == th.load(tmp_path / "m").backbone.fingerprint
    assert answers(again) == answers(model)


@LOW
def test_a_model_is_lowered_when_it_is_loaded(precision: str, tmp_path: Path) -> None:
    """It answers as one that was made of the lowered backbone, and nearly as the whole one."""
    whole = tiny_model(["topic", "size", "names"])
    whole.edits["size"] = stirred(made("lora", whole.backbone, ["size"])).eval()
    whole.save(tmp_path / "m")
    low = th.load(tmp_path / "m", precision=precision)
    again = tiny_model(["topic", "size", "names"])
    tokenizer = again.backbone.tokens.tokenizer
    again.backbone = Backbone(again.backbone.model, tokenizer, name="tiny", limit=32, precision=precision)
    again.edits = whole.edits
    assert low.predict(rows(9), scores=True) == again.predict(rows(9), scores=True)
    sizes = [[answer["size"]["value"] for answer in model.predict(rows(9))] for model in (low, whole)]
    assert sizes[0] != sizes[1]
    assert sizes[0] == pytest.approx(sizes[1], abs=0.1)


def test_branches_are_lowered_with_what_they_grew_from(tmp_path: Path) -> None:
    model = tiny_model(["topic", "size"])
    name = next(
        name for name, _ in model.backbone.named_weights() if name.endswith("attention.self.query.weight")
    )
    own = branched(model.backbone, {name: model.backbone.model.get_parameter(name) + 0.5})
    model.branches["own"], model.branch_of["size"] = Branch(own), "own"
    model.save(tmp_path / "m")
    low = th.load(tmp_path / "m", precision="bfloat16")
    trunk, branch = low.backbone.model, low.branches["own"].backbone
    assert branch.precision == "bfloat16"
    assert {each.dtype for each in branch.model.parameters()} == {torch.bfloat16}
    theirs = dict(trunk.named_parameters())
    assert [key for key, each in branch.named_weights() if each is not theirs[key]] == [name]
    value = model.branches["own"].backbone.model.get_parameter(name)
    assert torch.equal(branch.model.get_parameter(name), value.bfloat16())
    with pytest.raises(ModelError, match="layers of their own, which cannot be lowered to int8"):
        th.load(tmp_path / "m", precision="int8")


@LOW
@pytest.mark.parametrize("how", [{}, {"tune": "full"}, {"tune": "lora", "training": {"alone": True}}])
def test_its_own_weights_are_not_tuned(precision: str, how: dict[str, Any], tmp_path: Path) -> None:
    backbone = tiny_backbone()
    assert backbone.tokens is not None
    low = Backbone(backbone.model, backbone.tokens.tokenizer, precision=precision)
    with pytest.raises(ConfigError, match=f"in {precision} cannot be tuned"):
        th.fit(suite("topic", "size"), backbone=low, out=tmp_path / "m", **how)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_lowered_is_refused() -> None:
    with pytest.raises(BackboneError, match="int4"):
        low_backbone("int4")
    with pytest.raises(BackboneError, match="no linear maps"):
        low_backbone("int8", "gpt2")
