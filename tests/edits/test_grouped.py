"""Deltas of low rank in slices of one batch: values and gradients, and what they leave alone."""

from __future__ import annotations

import pytest
import torch

from taskheads.edits.low_rank.delta import LowRank
from taskheads.edits.low_rank.grouped import added


@pytest.mark.method("lora")
@pytest.mark.parametrize(
    ("inputs", "outputs", "ranks", "kind"),
    [
        pytest.param(6, 5, (2, 2, 2), torch.float64, id="double precision"),
        pytest.param(16, 12, (4, 4, 4), torch.float32, id="single precision"),
        pytest.param(16, 12, (4, 8, 1), torch.float32, id="ranks that differ"),
    ],
)
def test_gradients_of_many_slices_are_those_of_each_alone(
    inputs: int, outputs: int, ranks: tuple[int, ...], kind: torch.dtype
) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(inputs, outputs).to(kind)
    deltas = [LowRank(inputs, outputs, rank, 0.7 / rank).to(kind) for rank in ranks]
    for delta in deltas:
        torch.nn.init.normal_(delta.up)
    sizes, chosen = [4, 0, 3, 2, 1], [deltas[0], deltas[1], None, deltas[2], deltas[0]]
    x = torch.randn(sum(sizes), inputs, dtype=kind, requires_grad=True)
    weight = torch.randn(outputs, sum(sizes), dtype=kind).T  # a gradient as a head may hand it down
    learning = [x, linear.weight, linear.bias, *(p for delta in deltas for p in delta.parameters())]

    def gradients(output: torch.Tensor) -> list:
        return torch.autograd.grad((output.sin() * weight).sum(), learning, allow_unused=True)

    # As the model hands it over: a view of what the map gave.
    together = LowRank.by_slice(chosen, sizes)(x, linear(x[None]).flatten(0, 1))
    parts = zip(chosen, x.split(sizes), strict=True)
    alone = torch.cat([linear(mine) if own is None else own(mine, linear(mine)) for own, mine in parts])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        in_place = LowRank.by_slice(chosen, sizes)(x, linear(x[None]).flatten(0, 1))
    torch.testing.assert_close(in_place, alone, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(gradients(together), gradients(alone), strict=True):
        assert (mine is None) == (theirs is None) or not theirs.any()
        if mine is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.method("lora")
def test_products_added_by_slice_have_their_numerical_gradients() -> None:
    sizes, scales = [3, 2, 4], [0.7, None, -1.5]
    generator = torch.Generator().manual_seed(0)
    shapes = [(9, 5), (9, 4), (2, 4), (3, 4), (2, 5), (3, 5)]  # output, x, two A, two B
    given = [
        torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes
    ]

    def function(output: torch.Tensor, x: torch.Tensor, *factors: torch.Tensor) -> torch.Tensor:
        return added(output.clone(), x, sizes, scales, factors[:2], factors[2:])

    assert torch.autograd.gradcheck(function, given)


@pytest.mark.method("lora")
@pytest.mark.parametrize("training", [False, True])
def test_what_is_added_stands_in_the_output_and_in_no_other_slice(training: bool) -> None:
    output, x = torch.randn(9, 5), torch.randn(9, 4)
    before = output.clone()
    down, up = torch.full((2, 4), torch.nan, requires_grad=True), torch.ones(2, 5)
    with torch.set_grad_enabled(training):
        made = added(output, x, [3, 2, 4], [None, 1.0, None], [down], [up])
    assert made.data_ptr() == output.data_ptr()
    assert made.requires_grad is training
    assert made[3:5].isnan().all()
    for rows in (slice(0, 3), slice(5, 9)):
        assert torch.equal(made[rows], before[rows])


@pytest.mark.method("lora")
def test_a_step_that_kept_the_output_for_its_gradient_notices_that_it_changed() -> None:
    weight = torch.randn(3, 5, requires_grad=True)
    made = added(weight.exp(), torch.randn(3, 4), [3], [1.0], [torch.randn(2, 4)], [torch.randn(2, 5)])
    with pytest.raises(RuntimeError, match="inplace"):
        made.sum().backward()


@pytest.mark.method("lora")
def test_slices_of_any_size_are_those_of_a_loop_over_them() -> None:
    torch.manual_seed(0)
    sizes = [*torch.randint(1, 70, (40,)).tolist(), 1, 0, 300]
    deltas = [LowRank(7, 5, 1 + n % 3, 0.5 + n).double() if n % 5 else None for n in range(len(sizes))]
    learning = [p for delta in deltas if delta is not None for p in delta.parameters()]
    for parameter in learning:
        torch.nn.init.normal_(parameter)
    x, output = torch.randn(sum(sizes), 7).double().requires_grad_(), torch.randn(sum(sizes), 5).double()
    parts = zip(deltas, x.split(sizes), output.split(sizes), strict=True)
    alone = torch.cat([its if delta is None else delta(mine, its) for delta, mine, its in parts])
    together = LowRank.by_slice(deltas, sizes)(x, output.clone())
    torch.testing.assert_close(together, alone)
    found, expected = (
        torch.autograd.grad(each.sin().sum(), [x, *learning], allow_unused=True, materialize_grads=True)
        for each in (together, alone)
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.method("lora")
def test_what_is_no_number_stays_in_its_slice() -> None:
    sizes, deltas = [3, 2, 3], [LowRank(4, 5, 2, 1.0) for _ in range(3)]
    for delta in deltas:
        torch.nn.init.normal_(delta.up)
    x = torch.randn(8, 4)
    x[4] = torch.nan  # the last row of the shortest slice, which the others' length is filled up with
    made = LowRank.by_slice(deltas, sizes)(x, torch.zeros(8, 5))
    assert made[4].isnan().all()
    assert made[[0, 1, 2, 3, 5, 6, 7]].isfinite().all()
    made[[0, 1, 2, 5, 6, 7]].sum().backward()
    for delta, clean in zip(deltas, (True, False, True), strict=True):
        grads = [parameter.grad for parameter in delta.parameters()]
        assert all(grad is not None and bool(grad.isfinite().all()) == clean for grad in grads)


@pytest.mark.method("lora")
def test_rows_that_were_changed_before_their_gradient_are_noticed() -> None:
    x, down, up = (torch.randn(*shape, requires_grad=True) for shape in ((4, 5), (2, 5), (2, 3)))
    rows = x * 1
    made = added(torch.zeros(4, 3), rows, [4], [0.5], [down], [up])
    rows.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        made.sum().backward()
