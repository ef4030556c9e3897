"""Adapters that the library `adapters` saved do what they did there; what cannot be read is named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.edits.adapters.seq_bn import SeqBn, ends_of_layers
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited
from taskheads.edits.files.adapterhub import read_adapterhub
from taskheads.errors import ModelError
from tests.edits.planted import backbone_of, rows_of, stirred

SAVED = Path(__file__).parent / "adapterhub"  # how it was made: adapterhub/make.py
EXPECTED = load_file(SAVED / "expected.safetensors")
BATCH = RaggedBatch([Encoded(np.array([5, 9, 17, 3, 21, 8])), Encoded(np.array([4, 11, 6]))])


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    config = hf.BertConfig(
        vocab_size=24,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=8,
    )
    model = hf.BertModel(config, add_pooling_layer=False)
    weights = load_file(SAVED / "backbone.safetensors")
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return Backbone(model)


def changed(folder: Path, to: Path, **config: Any) -> Path:
    """A copy of a saved adapter whose configuration says this."""
    shutil.copytree(folder, to)
    saved = json.loads((to / "adapter_config.json").read_text())
    saved["config"] |= config
    (to / "adapter_config.json").write_text(json.dumps(saved))
    return to


@pytest.mark.method("seq_bn")
@pytest.mark.parametrize(
    ("name", "method"), [("sst-2", "seq_bn"), ("upper", "seq_bn"), ("double_bn", "houlsby")]
)
@torch.inference_mode()
def test_outputs_are_those_of_adapters(backbone: Backbone, name: str, method: str) -> None:
    edit = read_adapterhub(SAVED / name, backbone, "mine")
    found = Edited(backbone, {"mine": edit}, "mine").run(BATCH)["output"]
    assert edit.method == method
    torch.testing.assert_close(found, EXPECTED[name], rtol=0, atol=1e-5)
    assert (EXPECTED[name] - EXPECTED["plain"]).abs().max() > 0.5
    again = made(method, backbone, ["mine"], edit.options)
    again.load_state_dict(edit.state_dict())
    assert torch.equal(Edited(backbone, {"mine": again}, "mine").run(BATCH)["output"], found)


@pytest.mark.method("seq_bn")
@torch.inference_mode()
def test_a_layer_that_ends_in_a_sum_has_its_adapter_on_the_sum() -> None:
    assert ends_of_layers(backbone_of("bert"))[1] == "encoder.layer.1.output.LayerNorm"
    backbone = backbone_of("llama")
    edit = stirred(made("seq_bn", backbone, ["mine"], {"layers": [1]}))
    assert isinstance(edit, SeqBn)
    batch = RaggedBatch(rows_of()["first"])
    plain = backbone.run(batch, ["layers.1.output"])["layers.1.output"]
    found = Edited(backbone, {"mine": edit}, "mine").run(batch, ["layers.1.output"])["layers.1.output"]
    (adapter,) = edit.adapters.values()
    expected = plain + adapter.up(torch.relu(adapter.down(plain)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.method("seq_bn")
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_it_runs_and_learns_on_a_backbone_in_half_precision(architecture: str) -> None:
    backbone = backbone_of(architecture)
    edit = stirred(made("seq_bn", backbone, ["mine"]))
    batch = RaggedBatch(rows_of()["first"])
    expected = Edited(backbone, {"mine": edit}, "mine").run(batch)["output"]
    assert len([*edit.parameters()]) == 3 * 4  # the norms are the backbone's
    backbone.model.to(torch.bfloat16)
    found = Edited(backbone, {"mine": edit}, "mine").run(batch)["output"]
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.03 * expected.norm()
    found.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in edit.parameters())


def test_an_old_file_is_read_by_its_old_names(backbone: Backbone, tmp_path: Path) -> None:
    old = changed(SAVED / "sst-2", tmp_path / "old", non_linearity="gelu")
    saved = json.loads((old / "adapter_config.json").read_text())
    del saved["version"]
    (old / "adapter_config.json").write_text(json.dumps(saved))
    weights = torch.load(old / "pytorch_adapter.bin", weights_only=True)
    renamed = {
        "bert." + name.replace(".adapters.", ".layer_text_task_adapters."): weight
        for name, weight in weights.items()
    }
    torch.save(renamed, old / "pytorch_adapter.bin")
    edit = read_adapterhub(old, backbone, "mine")
    assert edit.options["activation"] == "gelu_new"
    new = read_adapterhub(SAVED / "sst-2", backbone, "mine").state_dict()
    assert all(torch.equal(new[name], tensor) for name, tensor in edit.state_dict().items())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architecture": "lora"}, "is of the method 'lora'"),
        ({"is_parallel": True}, "has is_parallel = True, which is not read: only False is"),
        ({"inv_adapter": "nice"}, "has inv_adapter = 'nice'"),
        ({"phm_layer": True}, "has phm_layer = True"),
        ({"scaling": "learned"}, "has scaling = 'learned'"),
        ({"mh_adapter": True}, "has mh_adapter = True, output_adapter = True, original_ln_before = True"),
        ({"reduction_factor": {"0": 4, "default": 8}}, "has reduction_factor = {'0': 4, 'default': 8}"),
        ({"non_linearity": "wavy"}, "has non_linearity = 'wavy'"),
        ({"reduction_factor": 8}, "is (8,) and should be (4,)"),
        ({"leave_out": [1]}, "encoder/layer/1/output/LayerNorm.down.bias is (8,) and should be nothing"),
    ],
)
def test_what_cannot_be_read_is_named(backbone: Backbone, tmp_path: Path, config: dict, said: str) -> None:
    folder = changed(SAVED / "sst-2", tmp_path / "odd", **config)
    with pytest.raises(ModelError, match=re.escape(said)):
        read_adapterhub(folder, backbone, "mine")


def test_folders_that_are_no_adapters_are_named(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_adapterhub(tmp_path, backbone, "mine")
    lacking = changed(SAVED / "sst-2", tmp_path / "lacking")
    (lacking / "pytorch_adapter.bin").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        read_adapterhub(lacking, backbone, "mine")
    strange = changed(SAVED / "sst-2", tmp_path / "strange")
    torch.save({"decoder.gate": torch.zeros(1)}, strange / "pytorch_adapter.bin")
    with pytest.raises(ModelError, match=r"a weight 'decoder\.gate', for which there is no place"):
        read_adapterhub(strange, backbone, "mine")
    wide = changed(SAVED / "sst-2", tmp_path / "wide")
    saved = json.loads((wide / "adapter_config.json").read_text()) | {"hidden_size": 768}
    (wide / "adapter_config.json").write_text(json.dumps(saved))
    with pytest.raises(ModelError, match="is for a width of 768; this backbone's is 32"):
        read_adapterhub(wide, backbone, "mine")


class Harmful:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("unpickled"),))


def test_nothing_but_tensors_is_unpickled(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = changed(SAVED / "sst-2", tmp_path / "harmful")
    torch.save({"weight": Harmful()}, folder / "pytorch_adapter.bin")
    with pytest.raises(ModelError, match="cannot be read"):
        read_adapterhub(folder, backbone, "mine")
    assert not Path("unpickled").exists()
