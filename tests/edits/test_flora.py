"""Tucker updates: factored as dense, of the ranks they promise, LoRA as a special case, a planted one
found."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from taskheads.edits.edit import made
from taskheads.edits.low_rank.delta import LowRank
from taskheads.edits.low_rank.tucker import Tucker, TuckerConv2d, TuckerLinear
from taskheads.edits.maps import by_name
from taskheads.errors import ConfigError
from tests.edits.planted import backbone_of, stirred

pytestmark = pytest.mark.method("flora_tucker")


def dense(core: torch.Tensor, factors: list[torch.Tensor]) -> torch.Tensor:
    return torch.einsum("abcd,ia,jb,kc,ld->ijkl", core, *factors)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"padding": (1, 2), "dilation": 2}])
@torch.inference_mode()
def test_a_factored_convolution_is_the_one_with_the_merged_kernel(options: dict) -> None:
    convolution = nn.Conv2d(5, 7, (3, 2), **options)
    update = stirred(TuckerConv2d(convolution, (3, 2, 2, 1), 0.7), by=0.5)
    x = torch.randn(2, 5, 9, 8)
    factored = update(x, convolution(x))
    how = (convolution.stride, convolution.padding, convolution.dilation)
    merged = functional.conv2d(x, convolution.weight + update.weight(), convolution.bias, *how)
    torch.testing.assert_close(factored, merged, rtol=1e-5, atol=1e-5)
    assert (merged - convolution(x)).abs().max() > 0.05
    torch.testing.assert_close(
        update.weight(), 0.7 * dense(update.core, list(update.factors)), rtol=1e-5, atol=1e-6
    )


def test_no_unfolding_has_more_than_its_rank() -> None:
    ranks = (3, 2, 2, 1)
    weight = stirred(Tucker((7, 5, 3, 2), ranks, 1.0), by=0.5).weight().detach().double()
    for mode, rank in enumerate(ranks):
        values = torch.linalg.svdvals(weight.movedim(mode, 0).flatten(1))
        assert values[rank - 1] > 1e-3
        assert not (values[rank:] > 1e-6).any()


def test_with_the_identity_as_core_it_is_lora() -> None:
    lora, update = LowRank(6, 4, 3, 0.5), TuckerLinear(6, 4, 3, 0.5)
    stirred(lora)
    with torch.no_grad():
        update.core.copy_(torch.eye(3))
        update.factors[0].copy_(lora.up.T)
        update.factors[1].copy_(lora.down.T)
    x, output = torch.randn(5, 6), torch.randn(5, 4)
    torch.testing.assert_close(update(x, output), lora(x, output), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(update.weight(), lora.weight())


def test_a_planted_convolution_update_is_found_which_a_matrix_of_as_many_numbers_cannot_hold() -> None:
    shape, ranks = (12, 12, 3, 3), (2, 2, 2, 2)
    generator = torch.Generator().manual_seed(0)
    target = dense(
        torch.randn(2, 2, 2, 2, generator=generator),
        [torch.randn(size, 2, generator=generator) for size in shape],
    )
    torch.manual_seed(0)
    update = stirred(Tucker(shape, ranks, 1.0), by=0.3)
    optimizer = torch.optim.LBFGS(update.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (update.weight() - target).square().sum() / target.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert float(loss().detach()) < 1e-6
    # LoRA flattens the kernel to (out, in · k · k). Even one rank takes more numbers than all of Tucker's,
    # and the best of rank one (Eckart and Young) is far off.
    spent = sum(each.numel() for each in update.parameters())
    matrix = target.flatten(1)
    assert sum(matrix.shape) > spent
    values = torch.linalg.svdvals(matrix).square()
    assert float(values[1:].sum() / values.sum()) > 0.05


def test_its_parameters_are_those_of_factors_and_core() -> None:
    edit = made("flora_tucker", backbone_of("bert"), ["first"], {"rank": 3})
    assert len(by_name(edit.maps)) == 9
    assert sum(each.numel() for each in edit.parameters()) == 9 * (3 * (32 + 32) + 3 * 3)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match="groups"):
        TuckerConv2d(nn.Conv2d(4, 4, 3, groups=2), (1, 1, 1, 1), 1.0)
    with pytest.raises(ConfigError, match="padded"):
        TuckerConv2d(nn.Conv2d(4, 4, 3, padding="same"), (1, 1, 1, 1), 1.0)
    with pytest.raises(ConfigError, match="rank of 40"):
        made("flora_tucker", backbone_of("bert"), ["first"], {"rank": 40})
