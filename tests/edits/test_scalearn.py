"""Adapters added up with learned factors."""

from __future__ import annotations

import pytest
import torch

from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.adapters.fusion import Fusion
from taskheads.edits.adapters.scalearn import VARIANTS, Scales
from taskheads.edits.edit import made
from taskheads.errors import ConfigError
from tests.edits.planted import TASKS, backbone_of, rows_of
from tests.edits.test_library import frozen_backbone, output, second_stage, trained


def scales_of(edit: torch.nn.Module, task: str) -> Scales:
    found = edit.compositions[f"task/{task}"]  # type: ignore[index]
    assert isinstance(found, Scales)
    return found


@pytest.mark.method("scalearn")
@pytest.mark.parametrize("variant", VARIANTS)
@torch.inference_mode()
def test_one_hot_factors_are_the_source_adapter_exactly(variant: str) -> None:
    backbone = backbone_of("bert")
    edit = second_stage(backbone, "scalearn", variant=variant).eval()
    batch = RaggedBatch(rows_of()["first"])
    for number, source in enumerate(TASKS):
        scales = scales_of(edit, "first").scales
        scales.zero_()[:, number] = 1.0
        found = output(backbone, edit.own("first", batch.lengths), batch)
        assert torch.equal(found, output(backbone, edit.alone(source), batch))


@pytest.mark.method("scalearn")
@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("scalearn", 3 * 4 * 32),
        ("scalearn_uniform", 3 * 4),
        ("scalearn++", 4 * 32),
        ("scalearn_uniform++", 4),
    ],
)
def test_a_task_trains_as_many_numbers_as_the_paper_counts(variant: str, count: int) -> None:
    edit = second_stage(backbone_of("bert"), "scalearn", ("a", "b", "c", "d"), variant=variant)
    learning = [p for p in edit.parameters() if p.requires_grad]
    assert [p.numel() for p in learning] == [count] * 4
    torch.testing.assert_close(learning[0], torch.full_like(learning[0], 1 / 4), rtol=0, atol=0.01)


@pytest.mark.method("scalearn")
@pytest.mark.parametrize("variant", ["scalearn_uniform", "scalearn_uniform++"])
def test_factors_beyond_an_average_are_recovered_where_attention_cannot(variant: str) -> None:
    backbone = frozen_backbone()
    tasks = ("target", "more", "less")
    batch = RaggedBatch(rows_of()["first"])
    planted = torch.tensor([0.0, 1.5, -0.5])
    torch.manual_seed(0)
    edit = second_stage(backbone, "scalearn", tasks, variant=variant, layers=[0, 1], dropout=0.0)
    scales = scales_of(edit, "target").scales
    first = scales.detach().clone()
    with torch.no_grad():
        scales.copy_(planted[:, None])
        aim = output(backbone, edit.own("target", batch.lengths), batch)
        scales.copy_(first)
    lost = trained(
        edit,
        lambda: (output(backbone, edit.own("target", batch.lengths), batch) - aim).square().mean(),
        100,
        1e-2,
    )
    torch.testing.assert_close(scales.squeeze(-1), planted.expand_as(scales.squeeze(-1)), rtol=0, atol=0.05)

    fused = second_stage(backbone, "adapter_fusion", tasks, layers=[0, 1])
    fused.library.load_state_dict(edit.library.state_dict())
    for each in fused.compositions.modules():
        if isinstance(each, Fusion):  # what a softmax can do by itself
            each.value.requires_grad_(False)
    lost_by_attention = trained(
        fused,
        lambda: (output(backbone, fused.own("target", batch.lengths), batch) - aim).square().mean(),
        50,
        5e-2,
    )
    assert lost_by_attention > 50 * lost


def test_dropout_is_for_training_alone() -> None:
    edit = second_stage(backbone_of("bert"), "scalearn", dropout=0.5)
    batch = RaggedBatch(rows_of()["first"])
    backbone = backbone_of("bert")

    def twice() -> bool:
        found = [output(backbone, edit.own("first", batch.lengths), batch) for _ in range(2)]
        return torch.equal(*found)

    edit.train()
    assert not twice()
    edit.eval()
    assert twice()
    uniform = second_stage(backbone, "scalearn", variant="scalearn_uniform++").train()
    assert scales_of(uniform, "first").dropout.p == 0


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no variant 'scalearn\+' \(did you mean 'scalearn"):
        made("scalearn", backbone_of("bert"), ["first"], {"variant": "scalearn+"})
