"""Attention over adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.adapters.fusion import AdapterFusion, Fusion, Fusions
from taskheads.edits.edit import Own
from tests.edits.planted import backbone_of, rows_of, stirred
from tests.edits.test_library import frozen_backbone, output, second_stage, trained

EXPECTED = load_file(Path(__file__).parent / "adapterhub" / "expected.safetensors")


@pytest.mark.method("adapter_fusion")
@torch.inference_mode()
def test_one_adapter_with_an_identity_for_values_is_that_adapter() -> None:
    backbone = backbone_of("bert")
    edit = stirred(second_stage(backbone, "adapter_fusion", ("only",)), by=0.3)
    for each in edit.compositions.modules():
        if isinstance(each, Fusion):
            each.value.copy_(torch.eye(32))
    batch = RaggedBatch(rows_of()["first"])
    fused = output(backbone, edit.own("only", batch.lengths), batch)
    torch.testing.assert_close(fused, output(backbone, edit.alone("only"), batch), rtol=0, atol=1e-6)
    assert (fused - backbone.run(batch)["output"]).abs().max() > 1e-2


@pytest.mark.method("adapter_fusion")
@torch.inference_mode()
def test_it_is_the_attention_of_the_library_adapters() -> None:
    weights = {name.removeprefix("fusion."): each for name, each in EXPECTED.items()}
    fusion = Fusion(8)
    fusion.query.weight.copy_(weights["query.weight"])
    fusion.query.bias.copy_(weights["query.bias"])
    fusion.key.copy_(weights["key.weight"])
    fusion.value.copy_(weights["value.weight"])
    assert weights["key.bias"].abs().min() > 0  # it makes no difference
    found = weights["residual"] + fusion(weights["h"], weights["z"])
    torch.testing.assert_close(found, weights["output"], rtol=1e-5, atol=1e-5)
    total = fusion.weights(weights["h"], weights["z"]).sum(-1)
    torch.testing.assert_close(total, torch.ones(5), rtol=0, atol=1e-6)


@pytest.mark.method("adapter_fusion")
def test_attention_concentrates_on_the_one_useful_adapter() -> None:
    backbone = frozen_backbone()
    tasks = ("target", "noise", "useful", "more")
    torch.manual_seed(0)
    edit = second_stage(backbone, "adapter_fusion", tasks, layers=[1])
    batch = RaggedBatch([row for rows in rows_of().values() for row in rows])
    aim = output(backbone, edit.alone("useful"), batch).detach()
    composition = edit.compositions["task/target"]
    assert isinstance(composition, Fusions)
    (fusion,) = composition.at.values()
    (place,) = edit.library.places
    seen = {}

    def own() -> Own:
        changed = edit.own("target", batch.lengths).maps[place]

        def change(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            seen["weights"] = fusion.weights(y, edit.library.added(place, y)).mean(0)
            return changed(x, y)

        return Own(maps={place: change})

    def loss() -> torch.Tensor:
        penalty = edit.penalty()
        assert penalty is not None
        return (output(backbone, own(), batch) - aim).square().mean() + penalty

    loss()
    assert seen["weights"].max() < 0.4
    trained(edit, loss, 150, 4e-2)
    assert seen["weights"].argmax() == tasks.index("useful")
    assert seen["weights"].max() > 0.9


@torch.inference_mode()
def test_the_penalty_is_the_distance_of_the_values_from_the_identity() -> None:
    edit = second_stage(backbone_of("bert"), "adapter_fusion", identity=0.5)
    assert isinstance(edit, AdapterFusion)
    torch.testing.assert_close(edit.penalty(), torch.tensor(0.0), rtol=0, atol=1e-6)
    value = edit.compositions["task/third"].at["encoder/layer/2/output/dense"].value  # type: ignore
    value.copy_(torch.eye(32))
    value[0, 3] = 2.0
    torch.testing.assert_close(edit.penalty(), torch.tensor(0.5 * 4.0), rtol=1e-5, atol=1e-6)
