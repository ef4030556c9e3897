"""Sums of Kronecker products, applied without being made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.adapters.compacter import Compacter, KroneckerBottleneck, KroneckerSum
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited
from taskheads.errors import ConfigError
from tests.edits.planted import backbone_of, rows_of, stirred

EXPECTED = load_file(Path(__file__).parent / "adapterhub" / "expected.safetensors")


def new(**options: object) -> Compacter:
    edit = made("compacter", backbone_of("bert"), ["mine"], options)
    assert isinstance(edit, Compacter)
    return edit


@pytest.mark.method("compacter")
@pytest.mark.parametrize(("n", "rank"), [(1, 1), (2, 3), (4, 1), (4, 2)])
def test_the_factored_product_is_that_with_the_sum_of_kronecker_products(n: int, rank: int) -> None:
    torch.manual_seed(0)
    matrix = KroneckerSum(24, 8, n, rank, zero=False).double()
    rule, x = torch.randn(n, n, n, dtype=torch.float64), torch.randn(7, 24, dtype=torch.float64)
    by_hand = sum(
        np.kron(rule[i].numpy(), (matrix.left[i] @ matrix.right[i]).detach().numpy()) for i in range(n)
    )
    np.testing.assert_allclose(matrix.weight(rule).detach().numpy(), by_hand, rtol=1e-12)
    np.testing.assert_allclose(matrix(rule, x).detach().numpy(), x.numpy() @ by_hand, rtol=1e-10, atol=1e-12)
    assert sum(each.numel() for each in matrix.parameters()) == rank * (24 + 8)


@pytest.mark.method("compacter")
@torch.inference_mode()
def test_it_is_the_layer_of_the_library_adapters() -> None:
    matrix = KroneckerSum(16, 8, 4, 2, zero=True)
    matrix.left.copy_(EXPECTED["kronecker.W_left"])
    matrix.right.copy_(EXPECTED["kronecker.W_right"])
    found = matrix(EXPECTED["kronecker.phm_rule"], EXPECTED["kronecker.x"]) + EXPECTED["kronecker.b"]
    torch.testing.assert_close(found, EXPECTED["kronecker.output"], rtol=1e-5, atol=1e-5)


@pytest.mark.method("compacter")
def test_the_rule_is_counted_once_and_each_matrix_by_its_sides() -> None:
    edit = new(inner=8, n=4, rank=2, norms=False)
    matrices = 2 * 2 * 3  # down and up, two adapters a layer, three layers
    biases = 2 * 3 * (32 + 8)
    count = sum(each.numel() for each in edit.parameters())
    assert count == 4**3 + matrices * 2 * (32 + 8) + biases
    assert len(new(inner=8, after_attention=False).adapters) == 3
    norms = sum(each.numel() for each in new(inner=8).norms.parameters())
    assert norms == 3 * 2 * 2 * 32


@pytest.mark.method("compacter")
@torch.inference_mode()
def test_adapters_stand_after_attention_and_feed_forward_with_their_norms_scaled() -> None:
    backbone = backbone_of("bert")
    edit = stirred(made("compacter", backbone, ["mine"], {"layers": [1]}))
    assert isinstance(edit, Compacter)
    batch = RaggedBatch(rows_of()["first"])
    found = Edited(backbone, {"mine": edit}, "mine").run(batch, ["layers.1.output"])["layers.1.output"]
    # The same by matrices that are made, put into the model itself.
    layer = backbone.model.encoder.layer[1]
    hooks = []
    for part in ("attention/output", "output"):
        adapter = edit.adapters[f"encoder/layer/1/{part}/dense"]
        assert isinstance(adapter, KroneckerBottleneck)
        affine = edit.norms[f"encoder/layer/1/{part}/LayerNorm"]
        module = layer.get_submodule(part.replace("/", "."))
        module.LayerNorm.weight.mul_(affine.scale)
        module.LayerNorm.bias.mul_(affine.scale).add_(affine.shift)
        down, up = adapter.down.weight(edit.rule), adapter.up.weight(edit.rule)

        def hook(_module, _args, y, adapter=adapter, down=down, up=up):  # type: ignore[no-untyped-def]
            inner = torch.nn.functional.gelu(y @ down + adapter.inner_bias)
            return y + inner @ up + adapter.bias

        hooks.append(module.dense.register_forward_hook(hook))
    expected = backbone.run(batch, ["layers.1.output"])["layers.1.output"]
    for each in hooks:
        each.remove()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_n_must_divide_both_widths() -> None:
    assert new(inner=6).rule.shape == (2, 2, 2)
    assert new(inner=24).rule.shape == (4, 4, 4)
    with pytest.raises(ConfigError, match="n = 5 must divide the backbone's width 32 and inner = 24"):
        new(n=5)
    with pytest.raises(ConfigError, match="no activation 'wavy'"):
        new(activation="wavy")
