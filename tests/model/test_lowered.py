"""Models whose backbone has fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import taskheads as th
from taskheads.backbone.branching import Branch, branched
from taskheads.edits.edit import made
from taskheads.errors import ConfigError, ModelError
from tests.backbone.models import LOW
from tests.edits.planted import stirred
from tests.small_models import rows, tiny_backbone, tiny_model
from tests.training.joint.test_editing import answers, suite


@LOW
def test_a_model_on_it_is_saved_and_answers_again(precision: str, tmp_path: Path) -> None:
    low = tiny_backbone(precision=precision)
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
    again.backbone = tiny_backbone(precision=precision)
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
    low = tiny_backbone(precision=precision)
    with pytest.raises(ConfigError, match=f"in {precision} cannot be tuned"):
        th.fit(suite("topic", "size"), backbone=low, out=tmp_path / "m", **how)
    assert not list(tmp_path.iterdir())
