"""Merges that learn: exact gradients, planted truths found, and ends that are the plain merges."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from taskheads.errors import ModelError
from taskheads.merging.learned.coefficients import AdaMerging, Atlas, Coefficients, SelfPositioning
from taskheads.merging.learned.learning import Learned, entropy
from taskheads.merging.learned.masks import ConcreteMerging, DefenseAwareMerging, SafetyFusion, concrete
from taskheads.merging.static.averages import TaskArithmetic
from taskheads.merging.tensors import merge_tensors
from tests.heads.planted import generator, normal
from tests.merging.models import close, near, same


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 4))


def checkpoints(count: int, size: float = 0.3) -> tuple[nn.Sequential, dict, list[dict]]:
    module = network()
    base = {name: each.detach().clone() for name, each in module.named_parameters()}
    return module, base, [near(base, seed, size) for seed in range(1, count + 1)]


def called(module: nn.Module, weights: dict, rows: torch.Tensor) -> torch.Tensor:
    return torch.func.functional_call(module, weights, rows)


def test_a_gradient_led_on_by_hooks_is_that_of_the_whole_graph() -> None:
    module, base, models = checkpoints(3)
    rows, coefficients = normal(9, 5), torch.tensor([0.3, -0.2, 0.5], requires_grad=True)

    def compose(name: str) -> torch.Tensor:
        return base[name] + sum(c * (m[name] - base[name]) for c, m in zip(coefficients, models, strict=True))

    value = entropy(called(module, {name: compose(name) for name in base}, rows))
    (expected,) = torch.autograd.grad(value, coefficients)
    learned = Learned(module, compose, list(base))
    assert learned.backward(lambda net: entropy(net(rows))) == pytest.approx(value.item(), abs=1e-6)
    torch.testing.assert_close(coefficients.grad, expected)
    assert all(each.grad is None and each.requires_grad for each in module.parameters())
    with pytest.raises(ModelError, match="no parameter 'x'"):
        Learned(module, compose, ["x"])


def test_no_more_than_one_composed_tensor_has_a_graph() -> None:
    """However many parameters and task vectors there are, only one is held at a time."""
    module, base, models = checkpoints(4)
    rows, values = normal(9, 5), torch.zeros(4, requires_grad=True)
    made: list[weakref.ref] = []
    most = 0

    def compose(name: str) -> torch.Tensor:
        nonlocal most
        found = base[name] + sum(c * (m[name] - base[name]) for c, m in zip(values, models, strict=True))
        if found.requires_grad:
            made.append(weakref.ref(found))
            most = max(most, sum(each() is not None for each in made))
        return found

    Learned(module, compose, list(base)).backward(lambda net: entropy(net(rows)))
    assert len(made) == len(base)
    assert most == 1


def test_coefficients_have_the_gradient_of_the_whole_graph_where_few_rows_are_touched() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(50, 5), nn.Linear(5, 4))
    base = {name: each.detach().clone() for name, each in module.named_parameters()}
    models, tokens = [near(base, seed) for seed in (1, 2, 3)], torch.tensor([3, 17, 3, 49])
    merging = Atlas(base, models, module, start=0.2)
    merging.learned.backward(lambda net: entropy(net(tokens)), lambda net: net(tokens[:2]).square().mean())
    values = torch.full_like(merging.values, 0.2, requires_grad=True)
    weights = {
        name: base[name] + sum(c * (m[name] - base[name]) for c, m in zip(row, models, strict=True))
        for name, row in zip(base, values, strict=True)
    }
    out = called(module, weights, tokens)
    (entropy(out) + out[:2].square().mean()).backward()
    torch.testing.assert_close(merging.values.grad, values.grad)


def test_a_head_of_the_network_stays_as_it_is() -> None:
    module, base, models = checkpoints(2)
    trunk = {name: value for name, value in base.items() if not name.startswith("4.")}
    merging = AdaMerging(trunk, models, module)
    merging.fit([lambda net: entropy(net(normal(8, 5)))], steps=2)
    head = {name: each for name, each in module.named_parameters() if name.startswith("4.")}
    assert same(head, {name: base[name] for name in head})
    assert merging.merged().keys() == trunk.keys()


def by_tasks(method: type[Coefficients], values: torch.Tensor, start: float = 1.0) -> dict[str, torch.Tensor]:
    """The merge with coefficients [tasks] the same everywhere."""
    module, base, models = checkpoints(2)
    merging = method(base, models, module)
    with torch.no_grad():
        for number in merging.numbers():
            if number.dim() == 2 and method is Atlas:
                number.copy_(values.expand_as(number))
            elif number.dim() == 2:
                number.copy_(values[:, None].expand_as(number))
            else:
                number.copy_(values / values.sum() if number.dim() else values.sum())
    return merging.merged()


@pytest.mark.method("adamerging", "atlas_anisotropic_task_vectors", "self_positioning")
@pytest.mark.parametrize("method", [AdaMerging, Atlas, SelfPositioning])
def test_equal_coefficients_are_task_arithmetic_and_one_hot_a_model(method: type[Coefficients]) -> None:
    _, base, models = checkpoints(2)
    assert close(by_tasks(method, torch.tensor([0.4, 0.4])), merge_tensors(TaskArithmetic(0.4), models, base))
    assert close(by_tasks(method, torch.tensor([0.0, 1.0])), models[1])


@pytest.mark.method("atlas_anisotropic_task_vectors")
def test_atlas_recovers_a_planted_mixture_block_by_block() -> None:
    # Fewer biases than outputs: more could stand in for each other, and no output would tell them apart.
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 12))
    base = {name: each.detach().clone() for name, each in module.named_parameters()}
    models = [near(base, seed) for seed in (1, 2)]
    planted = torch.rand(len(base), 2, generator=generator(5))
    target = {
        name: base[name] + sum(c * (m[name] - base[name]) for c, m in zip(row, models, strict=True))
        for (name, row) in zip(base, planted, strict=True)
    }
    rows = normal(400, 5)
    goal = called(module, target, rows).detach()
    merging = Atlas(base, models, module)
    merging.fit([lambda net: (net(rows) - goal).square().mean()], steps=200, rate=3e-2)
    torch.testing.assert_close(merging.values.detach(), planted, atol=1e-3, rtol=0)


@pytest.mark.method("adamerging")
def test_adamerging_finds_the_layer_that_makes_predictions_sure() -> None:
    """Task vector 0 sharpens the last layer, task vector 1 flattens it: only entropy tells them apart."""
    module, base, _ = checkpoints(1)
    sharper = base | {"4.weight": 2 * base["4.weight"], "4.bias": 2 * base["4.bias"]}
    flatter = base | {"4.weight": 0 * base["4.weight"], "4.bias": 0 * base["4.bias"]}
    rows = normal(64, 5)
    merging = AdaMerging(base, [sharper, flatter], module)
    course = merging.fit([lambda net: entropy(net(rows))], steps=40, rate=5e-2)
    assert course[-1] < course[0]
    assert merging.values.shape == (2, 3)  # layers 0, 2 and 4
    last = merging.values[:, -1].detach()
    assert last[0] > 1
    assert last[1] < 0
    assert torch.equal(merging.values[:, 0].detach(), torch.full((2,), 0.3)), (
        "no gradient where nothing moves"
    )
    assert same(dict(module.named_parameters()), merging.merged())


@pytest.mark.method("self_positioning")
def test_self_positioning_has_the_gradient_of_its_formula_and_finds_the_planted_point() -> None:
    module, base, models = checkpoints(3)
    alpha, scale = torch.tensor([0.5, 0.2, 0.3]), 0.8
    goal = {
        name: base[name] + scale * sum(a * (m[name] - base[name]) for a, m in zip(alpha, models, strict=True))
        for name in base
    }

    def probe(net: nn.Module) -> torch.Tensor:
        return sum((each - goal[name]).square().sum() for name, each in net.named_parameters())  # type: ignore[return-value]

    merging = SelfPositioning(base, models, module)
    merging.learned.backward(probe)
    here = merging.merged()
    inner = torch.stack(
        [sum((2 * (here[n] - goal[n]) * (m[n] - base[n])).sum() for n in base) for m in models]  # type: ignore[misc]
    )
    shares = merging.shares.detach()
    # d(raw / Σ raw): the part of the gradient along the shares falls away; Σ raw is 1 here.
    expected = merging.scale.item() * (inner - (inner * shares).sum())
    torch.testing.assert_close(merging.raw.grad, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(merging.scale.grad, (inner * shares).sum(), rtol=1e-4, atol=1e-5)
    merging.fit([probe], steps=400, rate=2e-2)
    torch.testing.assert_close(merging.shares.detach(), alpha, atol=1e-3, rtol=0)
    assert merging.scale.item() == pytest.approx(scale, abs=1e-3)


MASKED = [ConcreteMerging, DefenseAwareMerging, SafetyFusion]


@pytest.mark.method("concrete_subspace_merging", "defense_aware_merging", "somf_safety_fusion")
@pytest.mark.parametrize("method", MASKED)
def test_a_full_mask_is_task_arithmetic_and_an_empty_one_the_base(method: Callable) -> None:
    module, base, models = checkpoints(2)
    full = method(base, models, module, start=40.0, scale=0.3)
    plain = merge_tensors(TaskArithmetic(0.3), models, base)
    assert close(full.merged(), plain)
    full._draws(True)
    assert close(
        {name: full.compose(name).detach() for name in base} if method is not DefenseAwareMerging else plain,
        plain,
    )
    assert same(method(base, models, module, start=-40.0).merged(), base)


@pytest.mark.method("concrete_subspace_merging")
def test_concrete_masks_tend_to_bernoulli() -> None:
    logits = torch.tensor([-1.5, 0.0, 2.0]).repeat(40_000, 1)
    mask = concrete(logits, 0.005, generator())
    torch.testing.assert_close(mask.mean(0), logits[0].sigmoid(), atol=0.012, rtol=0)
    assert ((mask < 1e-3) | (mask > 1 - 1e-3)).double().mean() > 0.98
    assert concrete(logits[0], 0.5, None).tolist() == [0, 0, 1]


@pytest.mark.method("concrete_subspace_merging")
def test_the_same_mask_is_drawn_twice_a_step_and_another_at_the_next() -> None:
    module, base, models = checkpoints(2)
    merging = ConcreteMerging(base, models, module)
    first, again = (merging.compose("0.weight").detach() for _ in range(2))
    assert torch.equal(first, again)
    merging._next()
    assert not torch.equal(first, merging.compose("0.weight").detach())


def planted(width: int = 40) -> tuple[nn.Linear, dict, list[dict], torch.Tensor]:
    """A linear map whose first half of inputs is sharpened by both task vectors, whose second half is
    overwritten by noise that makes predictions unsure; and which is which."""
    torch.manual_seed(1)
    module = nn.Linear(width, 2, bias=False)
    useful = torch.arange(width) < width // 2
    direction = torch.stack([torch.ones(width), -torch.ones(width)])
    base = {"weight": torch.where(useful, 0.05, 0.5) * direction}
    # Half of what is there is taken away again: the sum of both task vectors undoes it.
    models = [{"weight": base["weight"] + torch.where(useful, 0.5, -0.25) * direction} for _ in range(2)]
    return module, base, models, useful


def auc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    above = scores[positive][:, None] > scores[~positive][None]
    return above.double().mean().item()


@pytest.mark.method("concrete_subspace_merging")
def test_the_learned_mask_keeps_what_is_useful_and_drops_conflicting_noise() -> None:
    module, base, models, useful = planted()
    rows = 0.2 * normal(64, 40).abs()
    merging = ConcreteMerging(base, models, module, scale=1.0, rescale=False)
    plain = entropy(called(module, merge_tensors(TaskArithmetic(), models, base), rows)).item()
    merging.fit([lambda net: entropy(net(rows))], steps=60)
    logits = merging.mask.logits["weight"].detach().mean(0)
    assert auc(logits, useful) > 0.9
    alone = entropy(
        called(module, {"weight": torch.where(useful, 1.05, 0.5) * torch.tensor([[1.0], [-1.0]])}, rows)
    )
    found = entropy(module(rows)).item()
    assert abs(found - alone.item()) < 0.1 * (plain - alone.item())


@pytest.mark.method("defense_aware_merging")
def test_the_defense_marks_what_only_the_backdoor_uses() -> None:
    """Inputs 0 to 19 carry the task, 20 to 23 a trigger that is 0 in clean rows; one model has learned it."""
    torch.manual_seed(2)
    module = nn.Linear(24, 2, bias=False)
    signs = torch.tensor([[1.0], [-1.0]])
    base = {"weight": 0.05 * signs.expand(2, 24) * (torch.arange(24) < 20)}
    clean = {"weight": base["weight"] + 0.5 * signs * (torch.arange(24) < 20)}
    backdoor = {"weight": clean["weight"] - 4 * signs * (torch.arange(24) >= 20)}
    labels = (normal(200, seed=3) < 0).long()
    rows = (normal(200, 24) + 0.5 - labels[:, None]) * (torch.arange(24) < 20)
    trigger = rows + (torch.arange(24) >= 20).float()

    def reacts(net: nn.Module) -> torch.Tensor:
        before, after = net(rows).log_softmax(-1), net(trigger).log_softmax(-1)
        return (before.exp() * (before - after)).sum(-1).mean()

    def scores(defense: float | None) -> tuple[float, float, DefenseAwareMerging]:
        merging = DefenseAwareMerging(
            base, [clean, backdoor], module, scale=0.5, start=2.0, rescale=False, defense=defense
        )
        merging.fit_both([lambda net: entropy(net(rows))], [reacts], steps=60)
        with torch.no_grad():
            accuracy = (module(rows).argmax(1) == labels).double().mean().item()
            attacked = (module(trigger)[labels == 0].argmax(1) == 1).double().mean().item()
        return accuracy, attacked, merging

    plain, guarded = scores(None), scores(-2.0)
    assert plain[1] > 0.7
    assert guarded[1] < 0.2
    assert abs(plain[0] - guarded[0]) <= 0.02
    marks = guarded[2].marks
    assert marks is not None
    assert auc(marks.logits["weight"].detach().mean(0), torch.arange(24) >= 20) > 0.9


@pytest.mark.method("defense_aware_merging")
def test_without_marks_it_is_concrete_merging() -> None:
    module, base, models = checkpoints(2)
    rows = normal(16, 5)
    found = []
    for method, options in ((ConcreteMerging, {}), (DefenseAwareMerging, {"defense": None})):
        merging = method(base, models, copy.deepcopy(module), **options)  # type: ignore[arg-type]
        merging.fit([lambda net: entropy(net(rows))], steps=5)
        found.append(merging.merged())
    assert same(*found)


@pytest.mark.method("somf_safety_fusion")
def test_safety_falls_back_to_the_aligned_model_where_it_lives() -> None:
    """Inputs 0 to 9 carry the task, 10 to 19 say that a row is harmful and should be refused (label 2).
    Fine-tuning learned the task and unlearned the refusal; no single scale has both."""
    torch.manual_seed(3)
    module = nn.Linear(20, 3, bias=False)
    task, harm = torch.arange(20) < 10, torch.arange(20) >= 10
    refuse, decide = torch.tensor([[-1.0], [-1.0], [2.0]]), torch.tensor([[1.0], [-1.0], [0.0]])
    aligned = {"weight": refuse * harm - decide * task}
    tuned = {"weight": decide * task - refuse * harm}
    benign = normal(300, 20) * task
    harmful = normal(300, 20).abs() * harm + 0.5 * normal(300, 20, seed=1) * task
    labels = (benign.sum(1) < 0).long()

    def rates(weights: dict) -> tuple[float, float]:
        with torch.no_grad():
            refused = (called(module, weights, harmful).argmax(1) == 2).double().mean().item()
            right = (called(module, weights, benign)[:, :2].argmax(1) == labels).double().mean().item()
        return refused, right

    merging = SafetyFusion(aligned, [tuned], module, start=0.5)
    losses = [
        lambda net: nn.functional.cross_entropy(net(harmful), torch.full((300,), 2)),
        lambda net: nn.functional.cross_entropy(net(benign), labels),
    ]
    merging.fit(losses, steps=80)
    refused, right = rates(merging.merged())
    assert refused >= rates(aligned)[0] - 0.02
    assert right >= rates(tuned)[1] - 0.02
    for scale in torch.linspace(0, 1, 21).tolist():
        one = rates(merge_tensors(TaskArithmetic(scale), [tuned], aligned))
        assert one[0] < rates(aligned)[0] - 0.02 or one[1] < rates(tuned)[1] - 0.02
