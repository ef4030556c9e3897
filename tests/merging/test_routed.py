"""Models that stay apart: Twin-Merging's router and small differences, logits fused as they are decoded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from taskheads.errors import ConfigError
from taskheads.merging.routed.logit_fusion import DynamicLogitFusion
from taskheads.merging.routed.twin import Router, TwinMerging
from taskheads.merging.static.averages import TaskArithmetic
from taskheads.merging.tensors import merge_tensors
from tests.heads.planted import normal
from tests.merging.test_learned import called, checkpoints


def one_hot(task: int) -> torch.Tensor:
    return nn.functional.one_hot(torch.tensor([task]), 2).float()


@pytest.mark.method("twin_merging")
def test_at_full_rank_and_with_a_sure_router_each_row_has_its_own_model() -> None:
    module, base, models = checkpoints(2)
    shared = merge_tensors(TaskArithmetic(0.3), models, base)
    rows, tasks = normal(8, 5), torch.tensor([0, 1, 1, 0, 0, 1, 0, 1])
    router = nn.functional.one_hot(tasks, 2).float()
    twin = TwinMerging(shared, models, lambda _: router)
    expected = torch.stack(
        [called(module, models[task], row[None])[0] for task, row in zip(tasks.tolist(), rows, strict=True)]
    )
    torch.testing.assert_close(twin(module, rows, rows), expected.detach(), rtol=1e-5, atol=1e-5)
    half = TwinMerging(shared, models, lambda _: torch.full((8, 2), 0.5)).weights_for(torch.full((2,), 0.5))
    for name, value in half.items():  # the mean of what is exclusive is on top of the shared expert
        torch.testing.assert_close(value, (models[0][name] + models[1][name]) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.method("twin_merging")
@pytest.mark.parametrize("rank", [1, 3])
def test_at_a_lower_rank_the_error_is_eckart_and_young_s(rank: int) -> None:
    _, base, models = checkpoints(2)
    shared = merge_tensors(TaskArithmetic(0.3), models, base)
    twin = TwinMerging(shared, models, lambda rows: rows, rank=rank)
    for task, model in enumerate(models):
        found = twin.weights_for(one_hot(task)[0])
        for name, value in model.items():
            error = (found[name] - value).double().norm()
            if value.dim() < 2:
                assert error < 1e-6
                continue
            values = torch.linalg.svdvals(value.double() - shared[name].double())
            torch.testing.assert_close(error, values[rank:].norm(), rtol=1e-4, atol=1e-6)


@pytest.mark.method("twin_merging")
def test_routed_experts_solve_conflicting_tasks_that_no_static_merge_does() -> None:
    """Two tasks with opposite labels on the same inputs; a further input says which task a row is of."""
    module = nn.Linear(6, 2, bias=False)
    signs = torch.tensor([[1.0], [-1.0]])
    base = {"weight": torch.zeros(2, 6)}
    weights = torch.cat([torch.ones(5), torch.zeros(1)]) * signs
    models = [{"weight": weights}, {"weight": -weights}]
    tasks = torch.arange(400) % 2
    rows = torch.cat([normal(400, 5), (2.0 * tasks - 1)[:, None]], 1)
    labels = ((rows[:, :5].sum(1) < 0).long() + tasks) % 2
    router = Router(6, 2, hard=True)
    router.fit(rows[:60], tasks[:60])
    shared = merge_tensors(TaskArithmetic(0.5), models, base)
    twin = TwinMerging(shared, models, router, rank=1)
    accuracy = (twin(module, rows, rows).argmax(1) == labels).double().mean()
    static = (called(module, shared, rows).argmax(1) == labels).double().mean()
    assert accuracy > 0.99  # as the experts, which are always right
    assert static < 0.6
    with pytest.raises(ConfigError, match="rows and the task of each"):
        router.fit(rows[:3], tasks[:2])


@pytest.mark.method("dynamic_logit_fusion")
def test_with_the_small_base_as_the_large_model_alpha_is_one() -> None:
    base, expert = 2 * normal(6, 9), 2 * normal(6, 9, seed=1)
    fusion = DynamicLogitFusion()
    torch.testing.assert_close(fusion.alphas(base, base, expert[None]), torch.ones(6, 1), atol=1e-4, rtol=0)
    fused = fusion.fused(base, base, [expert]).softmax(-1)
    torch.testing.assert_close(fused, expert.softmax(-1), atol=1e-4, rtol=0)


@pytest.mark.method("dynamic_logit_fusion")
def test_an_expert_that_learned_nothing_changes_nothing() -> None:
    large, small = normal(6, 9), normal(6, 9, seed=1)
    fused = DynamicLogitFusion().fused(large, small, [small, small])
    torch.testing.assert_close(fused, large)


@pytest.mark.method("dynamic_logit_fusion")
def test_alpha_makes_the_shifts_of_the_large_and_the_small_model_alike() -> None:
    """The search's result is at least as good as any point of a fine grid, for two experts."""
    large, small = normal(4, 7), normal(4, 7, seed=1)
    experts = torch.stack([small + normal(4, 7, seed=seed) for seed in (2, 3)])
    fusion = DynamicLogitFusion()
    found = fusion.alphas(large, small, experts).double()
    inputs = (large.double(), small.double(), experts.double())
    best = fusion._loss(found, *inputs)
    for a in torch.linspace(0, 2, 21).tolist():
        for b in torch.linspace(0, 2, 21).tolist():
            assert (best <= fusion._loss(torch.tensor([[a, b]]).double().expand(4, 2), *inputs) + 1e-6).all()
    with pytest.raises(ConfigError, match="one vocabulary"):
        fusion.alphas(large, small[:, :5], experts)
    with pytest.raises(ConfigError, match="1 to 4 experts"):
        fusion.alphas(large, small, experts.repeat(3, 1, 1))
