"""VeRA is PEFT's, and its random matrices are neither stored nor held twice."""

from __future__ import annotations

import copy

import peft
import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import made
from taskheads.edits.maps import by_name
from tests.backbone.models import CONFIGS, tiny
from tests.edits.planted import backbone_of, stirred
from tests.edits.test_known_edits import outputs, peft_outputs

pytestmark = pytest.mark.method("vera")


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [
        ("bert", ["query", "value"]),
        ("llama", ["q_proj", "v_proj", "down_proj"]),
        ("gpt2", ["c_attn", "c_fc"]),
    ],
)
def test_vera_is_pefts(architecture: str, targets: list[str]) -> None:
    model = tiny(copy.deepcopy(CONFIGS[architecture]))
    backbone = Backbone(copy.deepcopy(model))
    edit = stirred(made("vera", backbone, ["first"], {"targets": targets, "rank": 12}))
    config = peft.VeraConfig(r=12, target_modules=targets, fan_in_fan_out=architecture == "gpt2")
    theirs = peft.get_peft_model(model, config).eval()
    assert theirs.base_model.vera_A["default"].shape == edit.down.T.shape
    layers = {name.removeprefix("base_model.model."): each for name, each in theirs.named_modules()}
    outer = by_name(edit.outer)
    with torch.no_grad():
        theirs.base_model.vera_A["default"].copy_(edit.down.T)
        theirs.base_model.vera_B["default"].copy_(edit.up.T)
        for name, inner in by_name(edit.inner).items():
            layers[name].vera_lambda_d["default"].copy_(inner)
            layers[name].vera_lambda_b["default"].copy_(outer[name])
    torch.testing.assert_close(outputs(backbone, edit), peft_outputs(theirs), rtol=1e-5, atol=1e-5)


def test_it_begins_as_pefts_does() -> None:
    edit = made("vera", backbone_of("bert"), ["first"], {"rank": 400})
    assert all((each == 0.1).all() for each in by_name(edit.inner).values())
    assert not any(each.any() for each in by_name(edit.outer).values())
    # Uniform within ±√(6 / fan in), of variance 2 / fan in (He et al. 2015).
    for matrix in (edit.down, edit.up):
        bound = (6 / matrix.shape[0]) ** 0.5
        assert 0.95 * bound < matrix.abs().max() <= bound
        assert float(matrix.var() * matrix.shape[0]) == pytest.approx(2, rel=0.05)


def test_its_random_matrices_are_shared_and_made_again_from_the_seed() -> None:
    backbone = backbone_of("bert")
    first, second = (made("vera", backbone, [task], {"rank": 5}) for task in ("first", "second"))
    other = made("vera", backbone, ["first"], {"rank": 5, "seed": 1})
    assert first.down.data_ptr() == second.down.data_ptr()
    assert not torch.equal(first.down, other.down)
    assert sum(each.numel() for each in first.state_dict().values()) == 3 * 3 * (5 + 32)
    assert not first.down.requires_grad
