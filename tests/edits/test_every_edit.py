"""What holds for every edit: nothing at first, its own rows alone, mixed as alone, folded as applied."""

from __future__ import annotations

import copy
import re

import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from taskheads.backbone.running import ImageBatch
from taskheads.edits.edit import edit_methods, made
from taskheads.edits.edited import Edited
from taskheads.errors import ConfigError
from tests.backbone.models import VIT, tiny
from tests.edits.planted import TASKS, backbone_of, batch_of, edits_of, rows_of

# A prompt takes a place among the tokens, and a prefix a share of the attention, from the first.
NEVER_NOTHING = {"prompt_tuning", "prefix", "ptec", "ept_prompt_fusion"}
ENCODER, DECODER = "bert", "llama"
every_method = pytest.mark.parametrize("method", edit_methods())
both = pytest.mark.parametrize("architecture", [ENCODER, DECODER])


def skip_unfit(method: str, architecture: str) -> None:
    if method == "bitfit" and architecture == DECODER:
        pytest.skip("a backbone without biases")


@every_method
@both
@torch.inference_mode()
def test_a_new_edit_changes_nothing(method: str, architecture: str) -> None:
    skip_unfit(method, architecture)
    if method in NEVER_NOTHING:
        pytest.skip("it takes a place of its own from the first")
    backbone = backbone_of(architecture)
    batch = RaggedBatch(rows_of()["first"])
    edit = made(method, backbone, TASKS)
    found = Edited(backbone, dict.fromkeys(TASKS, edit), "first").run(batch)["output"]
    torch.testing.assert_close(found, backbone.run(batch)["output"], rtol=0, atol=1e-6)


@every_method
@both
def test_tasks_in_one_batch_are_as_alone(method: str, architecture: str) -> None:
    skip_unfit(method, architecture)
    backbone = backbone_of(architecture)
    chosen = rows_of([*TASKS, "unedited"])
    edited = Edited(backbone, edits_of(backbone, method))
    together = edited.run(batch_of(chosen), ["layers.1.output", "output"])
    sizes = [sum(map(len, each)) for each in chosen.values()]
    parts = {site: dict(zip(chosen, each.split(sizes), strict=True)) for site, each in together.items()}
    plain = backbone.run(RaggedBatch(chosen["first"]))["output"]
    for task, mine in chosen.items():
        alone = edited.of(task).run(RaggedBatch(mine), ["layers.1.output", "output"])
        for site in alone:
            torch.testing.assert_close(parts[site][task], alone[site], rtol=1e-5, atol=1e-5)
    assert (parts["output"]["first"] - plain).abs().max() > 1e-3


@every_method
@both
def test_a_tasks_loss_reaches_its_own_edit_alone(method: str, architecture: str) -> None:
    skip_unfit(method, architecture)
    backbone = backbone_of(architecture)
    edits = edits_of(backbone, method)
    chosen = rows_of()
    output = Edited(backbone, edits).run(batch_of(chosen))["output"]
    output.split([sum(map(len, each)) for each in chosen.values()])[1].square().sum().backward()
    reached = [p for p in edits["second"].parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert reached
    if edits["first"] is not edits["second"]:
        for task in ("first", "third"):
            assert all(p.grad is None or not p.grad.any() for p in edits[task].parameters())


@every_method
@both
@torch.inference_mode()
def test_folded_weights_do_what_the_edit_does(method: str, architecture: str) -> None:
    skip_unfit(method, architecture)
    backbone = backbone_of(architecture)
    edits = edits_of(backbone, method)
    batch = RaggedBatch(rows_of()["first"])
    expected = Edited(backbone, edits, "second").run(batch)["output"]
    try:
        folded = edits["second"].fold(backbone, "second")
    except ConfigError:
        return  # it cannot be folded, or not here, and says so
    weights = backbone.model.state_dict()
    with torch.no_grad():
        for name, weight in folded.items():
            weights[name].copy_(weight)
    torch.testing.assert_close(backbone.run(batch)["output"], expected, rtol=1e-5, atol=1e-5)


@every_method
def test_saved_and_made_again_it_is_the_same(method: str) -> None:
    backbone = backbone_of(ENCODER)
    edits = edits_of(backbone, method)
    again = made(method, backbone, edits["first"].tasks, edits["first"].options)
    again.load_state_dict(edits["first"].state_dict())
    batch = RaggedBatch(rows_of()["first"])
    before, after = (
        Edited(backbone, {"first": each}, "first").run(batch)["output"] for each in (edits["first"], again)
    )
    assert torch.equal(before, after)


@pytest.mark.parametrize("method", ["lora", "houlsby", "lofit", "dvpt"])
def test_images_are_rows_too(method: str) -> None:
    model = tiny(copy.deepcopy(VIT))
    backbone = Backbone(model)
    edits = edits_of(backbone, method)
    pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    parts = (("first", 1), ("second", 2), ("unedited", 1))
    together = Edited(backbone, edits).run(ImageBatch(pixels, parts))["output"]
    sizes = [count * len(together) // 4 for _, count in parts]
    for (task, _), found, mine in zip(parts, together.split(sizes), pixels.split([1, 2, 1]), strict=True):
        alone = Edited(backbone, edits).of(task).run(ImageBatch(mine))["output"]
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_an_exception_leaves_nothing_behind() -> None:
    backbone = backbone_of(ENCODER)
    batch = RaggedBatch(rows_of()["first"])
    before = backbone.run(batch)["output"]
    (edit,) = {*edits_of(backbone, "lora", ["first"]).values()}
    next(iter(edit.maps.values())).up.data = torch.zeros(3, 3)
    with pytest.raises(RuntimeError):
        Edited(backbone, {"first": edit}, "first").run(batch)
    assert torch.equal(backbone.run(batch)["output"], before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.model.modules())


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("lroa", {}, "no edit is called 'lroa' (did you mean 'lora'?)"),
        ("lora", {"rnak": 4}, "lora has no option 'rnak' (did you mean 'rank'?)"),
        ("lora", {"targets": "querry"}, "no linear map 'querry': it has dense, key"),
        ("lora", {"layers": [7]}, "no layer 7"),
    ],
)
def test_mistakes_are_named(method: str, options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        made(method, backbone_of(ENCODER), ["first"], options)
