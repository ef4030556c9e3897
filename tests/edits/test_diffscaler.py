"""A scale and a shift that fold, and a branch that does not."""

from __future__ import annotations

import copy

import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.adapters.diffscaler import Diffscaler
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited
from taskheads.errors import ConfigError
from tests.edits.planted import backbone_of, batch_of, rows_of, stirred


def folded(backbone: Backbone, weights: dict[str, torch.Tensor]) -> Backbone:
    """A backbone with these weights in place of its own."""
    model = copy.deepcopy(backbone.model)
    model.load_state_dict(model.state_dict() | weights)
    return Backbone(model)


def new(backbone: Backbone, **options: object) -> Diffscaler:
    edit = made("diffscaler", backbone, ["mine"], options)
    assert isinstance(edit, Diffscaler)
    return edit


@pytest.mark.method("diffscaler")
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
@torch.inference_mode()
def test_scale_and_shift_fold_exactly_and_the_branch_is_what_remains(architecture: str) -> None:
    backbone = backbone_of(architecture)
    batch = RaggedBatch(rows_of()["first"])
    edit = new(backbone)
    torch.testing.assert_close(  # nothing at first
        Edited(backbone, {"mine": edit}, "mine").run(batch)["output"],
        backbone.run(batch)["output"],
        rtol=0,
        atol=0,
    )
    stirred(edit)
    whole = Edited(backbone, {"mine": edit}, "mine").run(batch)["output"]
    rest = folded(backbone, edit.fold_affine(backbone))
    with_branch = rest.run(batch, changes=Changes(maps=edit.branch().maps))["output"]
    torch.testing.assert_close(with_branch, whole, rtol=1e-5, atol=1e-5)
    for branch in edit.branches.values():
        branch.up.zero_()
    affine_alone = Edited(backbone, {"mine": edit}, "mine").run(batch)["output"]
    torch.testing.assert_close(rest.run(batch)["output"], affine_alone, rtol=1e-5, atol=1e-5)
    assert (affine_alone - whole).abs().max() > 1e-2  # so the branch was no part of the weights


@pytest.mark.method("diffscaler")
@torch.inference_mode()
def test_each_map_computes_the_formula() -> None:
    backbone = backbone_of("bert")
    edit = stirred(new(backbone, targets=["query"], layers=[0], rank=3))
    x, name = torch.randn(5, 32), "encoder.layer.0.attention.self.query"
    module = backbone.model.get_submodule(name)
    affine, branch = edit.affines[name.replace(".", "/")], edit.branches[name.replace(".", "/")]
    added = branch.gain * (branch.up.T @ torch.relu(branch.down.T @ x.T)).T
    expected = affine.scale * (x @ module.weight.T + module.bias) + affine.shift + added
    found = edit.own("mine", [5]).maps[name](x, module(x))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.method("diffscaler")
def test_training_one_task_leaves_the_answers_of_another_as_they_were() -> None:
    backbone = backbone_of("bert")
    backbone.model.requires_grad_(False)
    tasks = ("first", "second")
    edits = {task: stirred(made("diffscaler", backbone, [task]), seed) for seed, task in enumerate(tasks)}
    edited, batch = Edited(backbone, edits), batch_of(rows_of(tasks))
    sizes = [sum(map(len, rows)) for rows in rows_of(tasks).values()]
    before = [part.detach() for part in edited.run(batch)["output"].split(sizes)]
    optimizer = torch.optim.AdamW([*edits["first"].parameters(), *edits["second"].parameters()], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        edited.run(batch_of(rows_of(["second"])))["output"].square().mean().backward()
        optimizer.step()
    after = edited.run(batch)["output"].split(sizes)
    assert torch.equal(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-2


def test_what_cannot_be_folded_is_said() -> None:
    backbone = backbone_of("bert")
    with pytest.raises(ConfigError, match="relu branch cannot be folded"):
        new(backbone).fold(backbone, "mine")
    backbone = backbone_of("llama")
    with pytest.raises(ConfigError, match="has no bias, so that an offset cannot be folded"):
        new(backbone).fold_affine(backbone)
