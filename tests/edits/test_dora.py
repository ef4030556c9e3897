"""DoRA is PEFT's, in what it computes and in what it learns."""

from __future__ import annotations

import copy

import peft
import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited
from taskheads.edits.maps import by_name
from tests.backbone.models import CONFIGS, tiny
from tests.edits.planted import backbone_of, stirred
from tests.edits.test_known_edits import ROWS, outputs, peft_outputs

pytestmark = pytest.mark.method("dora")


def pair(architecture: str, targets: list[str]):
    """An edit, the backbone, and PEFT's model with the same weights."""
    model = tiny(copy.deepcopy(CONFIGS[architecture]))
    backbone = Backbone(copy.deepcopy(model))
    edit = stirred(made("dora", backbone, ["first"], {"targets": targets, "rank": 4, "alpha": 6.0}))
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=targets,
        use_dora=True,
        fan_in_fan_out=architecture == "gpt2",
    )
    theirs = peft.get_peft_model(model, config).eval()
    layers = {name.removeprefix("base_model.model."): each for name, each in theirs.named_modules()}
    with torch.no_grad():
        for name, each in by_name(edit.maps).items():
            layers[name].lora_A["default"].weight.copy_(each.delta.down)
            layers[name].lora_B["default"].weight.copy_(each.delta.up.T)
            layers[name].lora_magnitude_vector["default"].weight.copy_(each.magnitude)
    return edit, backbone, theirs, layers


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [("bert", ["query", "value"]), ("llama", ["q_proj", "down_proj"]), ("gpt2", ["c_attn", "c_fc"])],
)
def test_dora_is_pefts(architecture: str, targets: list[str]) -> None:
    edit, backbone, theirs, layers = pair(architecture, targets)
    assert len(by_name(edit.maps)) == sum(name.endswith("lora_A.default") for name in layers)
    torch.testing.assert_close(outputs(backbone, edit), peft_outputs(theirs), rtol=1e-5, atol=1e-5)


def test_its_gradients_are_pefts() -> None:
    """The length of the direction is a constant to them (section 4.3)."""
    edit, backbone, theirs, layers = pair("bert", ["query", "value"])
    Edited(backbone, {"first": edit}, "first").run(RaggedBatch(ROWS))["output"].square().sum().backward()
    rows = [theirs(input_ids=torch.from_numpy(row.ids)[None]).last_hidden_state for row in ROWS]
    sum(row.square().sum() for row in rows).backward()
    for name, each in by_name(edit.maps).items():
        layer = layers[name]
        for mine, other in [
            (each.delta.down.grad, layer.lora_A["default"].weight.grad),
            (each.delta.up.grad.T, layer.lora_B["default"].weight.grad),
            (each.magnitude.grad, layer.lora_magnitude_vector["default"].weight.grad),
        ]:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_every_row_of_the_weight_has_the_learned_length() -> None:
    backbone = backbone_of("llama")
    edit = stirred(made("dora", backbone, ["first"]))
    folded = edit.fold(backbone, "first")
    assert len(folded) == 9
    for name, each in by_name(edit.maps).items():
        lengths = folded[f"{name}.weight"].norm(dim=1)
        torch.testing.assert_close(lengths, each.magnitude.abs(), rtol=1e-5, atol=1e-6)


def test_it_is_saved_without_the_backbones_weights() -> None:
    backbone = backbone_of("bert")
    edit = made("dora", backbone, ["first"], {"rank": 2, "layers": [0]})
    assert sum(each.numel() for each in edit.state_dict().values()) == 3 * (2 * (32 + 32) + 32)
    assert sum(each.numel() for each in edit.parameters()) == 3 * (2 * (32 + 32) + 32)
