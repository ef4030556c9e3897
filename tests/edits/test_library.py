"""Two stages over a library of adapters: what is trained when, and what stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.adapters.library import LibraryEdit
from taskheads.edits.edit import Edit, Own, made
from taskheads.edits.edited import Edited
from tests.edits.planted import TASKS, backbone_of, batch_of, rows_of, stirred

two_stages = pytest.mark.parametrize("method", ["adapter_fusion", "scalearn"])


def frozen_backbone(architecture: str = "bert") -> Backbone:
    backbone = backbone_of(architecture)
    backbone.model.requires_grad_(False)
    return backbone


def second_stage(
    backbone: Backbone, method: str, tasks: tuple[str, ...] = TASKS, **options: object
) -> LibraryEdit:
    """The second stage after a first one that left every adapter with weights that matter."""
    second = stirred(made(method, backbone, tasks, options), by=0.3).following(backbone)
    assert isinstance(second, LibraryEdit)
    return second


def output(backbone: Backbone, own: Own, batch: RaggedBatch) -> torch.Tensor:
    return backbone.run(batch, changes=Changes(own.sites, own.maps))["output"]


def trained(edit: Edit, loss: Callable[[], torch.Tensor], steps: int, lr: float) -> float:
    """The edit's parameters after so many steps as the training loop takes them; the last loss."""
    groups = [{"params": [p], "lr": lr * edit.rate_of(name)} for name, p in edit.named_parameters()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        found = loss()
        found.backward()
        optimizer.step()
    return found.item()


@pytest.mark.method("adapter_fusion", "scalearn")
@two_stages
def test_stage_one_is_an_adapter_for_each_task(method: str) -> None:
    backbone = frozen_backbone()
    edit = stirred(made(method, backbone, TASKS))
    assert isinstance(edit, LibraryEdit)
    assert edit.penalty() is None
    pfeiffer = made("pfeiffer", backbone, ["second"])
    pfeiffer.adapters.load_state_dict(edit.library.adapters["task/second"].state_dict())
    batch = RaggedBatch(rows_of()["second"])
    found = Edited(backbone, dict.fromkeys(TASKS, edit), "second").run(batch)["output"]
    assert torch.equal(found, Edited(backbone, {"second": pfeiffer}, "second").run(batch)["output"])
    # The loss of one task reaches its own adapter alone.
    found.square().sum().backward()
    reached = {
        name.split(".")[2].removeprefix("task/") for name, p in edit.named_parameters() if p.grad is not None
    }
    assert reached == {"second"}


@pytest.mark.method("adapter_fusion", "scalearn")
@two_stages
def test_stage_two_leaves_backbone_and_adapters_bit_for_bit(method: str) -> None:
    backbone = frozen_backbone()
    first = stirred(made(method, backbone, TASKS))
    assert isinstance(first, LibraryEdit)
    batch = RaggedBatch(rows_of()["first"])
    sources = {task: output(backbone, first.own(task, batch.lengths), batch) for task in TASKS}
    weights = copy.deepcopy(backbone.model.state_dict())
    second = first.following(backbone)
    assert isinstance(second, LibraryEdit)
    assert second.following(backbone) is None
    learning = {name.split(".")[0] for name, p in second.named_parameters() if p.requires_grad}
    assert learning == {"compositions"}
    edited = Edited(backbone, dict.fromkeys(TASKS, second))
    before = copy.deepcopy(second.compositions.state_dict())
    trained(second, lambda: edited.run(batch_of(rows_of()))["output"].square().mean(), 3, 1e-2)
    assert all(
        not torch.equal(before[name], each)
        for name, each in second.compositions.state_dict().items()
        if not name.endswith("query.bias")
    )
    for name, weight in backbone.model.state_dict().items():
        assert torch.equal(weight, weights[name])
    for task in TASKS:
        assert torch.equal(output(backbone, second.alone(task), batch), sources[task])


@pytest.mark.method("adapter_fusion", "scalearn")
@two_stages
@pytest.mark.parametrize("architecture", ["bert", "llama"])
@torch.inference_mode()
def test_stage_two_mixed_is_as_alone_and_as_saved(method: str, architecture: str) -> None:
    backbone = backbone_of(architecture)
    second = stirred(second_stage(backbone, method)).eval()
    chosen = rows_of()
    edited = Edited(backbone, dict.fromkeys(TASKS, second))
    parts = edited.run(batch_of(chosen))["output"].split([sum(map(len, each)) for each in chosen.values()])
    again = made(method, backbone, second.tasks, second.options).eval()
    again.load_state_dict(second.state_dict())
    for task, part in zip(TASKS, parts, strict=True):
        alone = edited.of(task).run(RaggedBatch(chosen[task]))["output"]
        torch.testing.assert_close(part, alone, rtol=1e-5, atol=1e-5)
        saved = Edited(backbone, {task: again}, task).run(RaggedBatch(chosen[task]))["output"]
        assert torch.equal(saved, alone)
    assert (parts[0] - backbone.run(RaggedBatch(chosen["first"]))["output"]).abs().max() > 1e-2


@pytest.mark.method("adapter_fusion", "scalearn")
@two_stages
@torch.inference_mode()
def test_forgetting_a_task_leaves_the_answers_of_the_others(method: str) -> None:
    backbone = backbone_of("bert")
    batch = RaggedBatch(rows_of()["first"])
    for edit in (stirred(made(method, backbone, TASKS)), second_stage(backbone, method).eval()):
        before = {task: output(backbone, edit.own(task, batch.lengths), batch) for task in TASKS}
        count = sum(p.numel() for p in edit.parameters())
        edit.forget("second")
        assert edit.tasks == ["first", "third"]
        assert sum(p.numel() for p in edit.parameters()) < count
        again = made(method, backbone, edit.tasks, edit.options).eval()
        again.load_state_dict(edit.state_dict())
        for task in edit.tasks:
            assert torch.equal(output(backbone, again.own(task, batch.lengths), batch), before[task])


@two_stages
def test_a_task_may_be_called_what_a_dict_of_modules_calls_its_methods(method: str) -> None:
    second = second_stage(backbone_of("bert"), method, ("type", "values", "v1.2"))
    for task in second.tasks:
        assert second.own(task, [3]).maps.keys() == second.alone(task).maps.keys() != set()


@two_stages
def test_stage_two_runs_on_a_backbone_in_half_precision(method: str) -> None:
    backbone = backbone_of("bert")
    second = second_stage(backbone, method).eval()
    batch = RaggedBatch(rows_of()["first"])
    edited = Edited(backbone, dict.fromkeys(TASKS, second), "first")
    expected = edited.run(batch)["output"]
    backbone.model.to(torch.bfloat16)
    found = edited.run(batch)["output"]
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.03 * expected.norm()
