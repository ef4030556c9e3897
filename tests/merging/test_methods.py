"""Each method against its paper's formula, written out element by element or vector by vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from taskheads.errors import ConfigError
from taskheads.merging.static import merge as blocks
from taskheads.merging.static import selection
from taskheads.merging.static.averages import Linear, ModelStock, Passthrough, Slerp, TaskArithmetic
from taskheads.merging.static.localising import TallMasksConsensus
from taskheads.merging.static.merge import Merge, made
from taskheads.merging.static.sparse import Breadcrumbs, Dare, DareTies, Ties
from taskheads.merging.static.swapping import LayerSwapping
from taskheads.merging.tensors import merge_tensors
from tests.heads.planted import generator, normal
from tests.merging.models import close, family, near, same, tensors

LISTED = [Linear(), TaskArithmetic(), Ties(1.0), Dare(1.0), DareTies(1.0), Breadcrumbs(1.0, 0.0)]
ORDERLESS = [Linear(), TaskArithmetic(), Ties(0.3), ModelStock(), Breadcrumbs(0.3, 0.1), TallMasksConsensus()]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 8 elements, so that every tensor has several."""
    monkeypatch.setattr(blocks, "BLOCK", 8)


@pytest.mark.method("linear", "task_arithmetic", "ties", "dare", "dare_ties", "breadcrumbs")
@pytest.mark.parametrize("method", LISTED, ids=lambda each: type(each).__name__)
def test_one_model_of_weight_one_is_that_model(method: Merge) -> None:
    base, (model,) = family(1)
    assert same(merge_tensors(method, [model], base, [1.0]), model)


@pytest.mark.parametrize("method", ORDERLESS, ids=lambda each: type(each).__name__)
def test_the_order_of_models_does_not_matter(method: Merge) -> None:
    base, models = family(3)
    forth, back = ([models[i] for i in order] for order in ((0, 1, 2), (2, 0, 1)))
    assert close(merge_tensors(method, forth, base), merge_tensors(method, back, base), 1e-7)


@pytest.mark.method("linear")
def test_linear_is_the_weighted_mean_in_float64() -> None:
    _, models = family(3)
    found = merge_tensors(Linear(), models, weights=[1, 2, 5])
    for name, value in found.items():
        a, b, c = (model[name].double() for model in models)
        torch.testing.assert_close(value, ((a + 2 * b + 5 * c) / 8).float(), rtol=1e-7, atol=0)
    with pytest.raises(ConfigError, match="sum is zero"):
        merge_tensors(Linear(), models, weights=[1, -2, 1])


@pytest.mark.method("task_arithmetic")
def test_task_arithmetic_adds_and_forgets() -> None:
    base, models = family(2)
    found = merge_tensors(TaskArithmetic(0.5), models, base, [1.0, -3.0])
    for name, value in found.items():
        zero, a, b = (each[name].double() for each in (base, *models))
        torch.testing.assert_close(value, (zero + 0.5 * (a - zero) - 1.5 * (b - zero)).float())
    assert same(merge_tensors(TaskArithmetic(), [models[0], models[0]], base, [1.0, -1.0]), base)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_rounded_once(dtype: torch.dtype) -> None:
    _, models = family(3, dtype)
    weights = [0.5, 0.25, 0.25]  # exact in binary: float64 is the truth, and nothing falls between
    for name, value in merge_tensors(Linear(), models, weights=weights).items():
        exact = sum(w * model[name].double() for w, model in zip(weights, models, strict=True))
        assert torch.equal(value, exact.to(dtype))


@pytest.mark.method("slerp")
def test_slerp_turns_by_a_share_of_the_angle() -> None:
    a, b = normal(40, seed=1), normal(40, seed=2)
    b = b * a.norm() / b.norm()
    found = merge_tensors(Slerp(0.25), [{"x": a}, {"x": b}])["x"]

    def angle(x: torch.Tensor, y: torch.Tensor) -> float:
        return math.acos(torch.dot(x, y).item() / (x.norm() * y.norm()).item())

    assert angle(a, found) == pytest.approx(0.25 * angle(a, b), abs=1e-5)
    assert found.norm().item() == pytest.approx(a.norm().item(), rel=1e-5)
    assert same(merge_tensors(Slerp(0), [{"x": a}, {"x": b}]), {"x": a})
    assert same(merge_tensors(Slerp(1), [{"x": a}, {"x": b}]), {"x": b})
    assert close(merge_tensors(Slerp(0.3), [{"x": a}, {"x": 2 * a}]), {"x": 1.3 * a})


def ties_by_hand(base: list, models: list[list], density: float, scale: float) -> list[float]:
    """The algorithm of the paper's section 3, on lists."""
    taus = [[m - b for m, b in zip(model, base, strict=True)] for model in models]
    k = max(1, int(density * len(base)))
    for tau in taus:
        bound = sorted((abs(x) for x in tau), reverse=True)[k - 1]
        tau[:] = [x if abs(x) >= bound else 0.0 for x in tau]
    merged = []
    for b, *column in zip(base, *taus, strict=True):
        sign = math.copysign(1, sum(column)) if sum(column) else 0
        mine = [x for x in column if x * sign > 0]
        merged.append(b + scale * (sum(mine) / len(mine) if mine else 0.0))
    return merged


@pytest.mark.method("ties")
@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
def test_ties_is_the_paper_s_algorithm(density: float) -> None:
    """The share is of the whole task vector; of each tensor, where that is asked for."""
    base, models = family(4)
    base["norm"], *_ = (each["norm"].mul_(0.01) for each in (base, *models))  # it hardly moves

    def flat(tensors: Mapping) -> list[float]:
        return torch.cat([tensors[name].double().flatten() for name in base]).tolist()

    expected = ties_by_hand(flat(base), [flat(model) for model in models], density, 0.7)
    found = merge_tensors(Ties(density, 0.7), models, base)
    torch.testing.assert_close(flat(found), expected, rtol=1e-6, atol=1e-7)
    found = merge_tensors(Ties(density, 0.7, per_tensor=True), models, base)
    for name, value in found.items():
        lists = [model[name].double().flatten().tolist() for model in models]
        expected = ties_by_hand(base[name].double().flatten().tolist(), lists, density, 0.7)
        torch.testing.assert_close(value.flatten().double(), torch.tensor(expected).double())
    assert torch.equal(found["norm"], merge_tensors(Ties(density, 0.7), models, base)["norm"]) == (
        density == 1
    )


@pytest.mark.method("ties")
def test_ties_with_disjoint_supports_keeps_all_task_vectors() -> None:
    base = tensors(0)
    mask = {name: torch.rand(each.shape, generator=generator(9)) < 0.5 for name, each in base.items()}
    full = near(base, 1)
    halves = [
        {name: torch.where(mask[name] == half, full[name], base[name]) for name in base}
        for half in (True, False)
    ]
    assert same(merge_tensors(Ties(1.0), halves, base), full)


@pytest.mark.parametrize("held", [1, 700, 10_000], ids=["by digits", "some passes", "one pass"])
@pytest.mark.parametrize("stride", [1, 9, 500], ids=["all", "a fair sample", "hardly a sample"])
def test_the_kth_largest_is_that_of_a_sort(held: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_HELD", held)
    values = (normal(5000).double() * 10 ** normal(5000, seed=1).double()).abs().numpy()
    values[:700] = values[700]  # many of one size
    values[-300:] = 0
    np.random.default_rng(0).shuffle(values)
    ordered = np.sort(values)[::-1]
    blocks = [values[start : start + 600] for start in range(0, 5000, 600)]
    for k in (1, 2, 699, 1500, 2500, 3200, 4700, 4701, 5000):
        found = selection.kth_largest(lambda: iter(blocks), k, values.size, values[::stride])
        assert found == ordered[k - 1]


def test_a_sample_that_misleads_changes_nothing() -> None:
    values = np.arange(5000.0)
    for sample in (values[:50], values[-50:], np.full(50, 7.0)):
        assert selection.kth_largest(lambda: iter([values]), 2000, values.size, sample) == 3000


@pytest.mark.method("dare")
def test_dare_keeps_its_share_and_its_expectation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4096)
    base, model = {"x": torch.zeros(40_000)}, {"x": normal(40_000).abs() + 1}
    found = merge_tensors(Dare(0.25, seed=3), [model], base)["x"]
    kept = found != 0
    torch.testing.assert_close(found[kept], model["x"][kept] * 4)
    assert kept.double().mean().item() == pytest.approx(0.25, abs=0.01)  # 5 standard errors
    mean = sum(merge_tensors(Dare(0.25, seed=seed), [model], base)["x"] for seed in range(30)) / 30
    assert (mean / model["x"]).mean().item() == pytest.approx(1, abs=0.01)
    again = merge_tensors(Dare(0.25, seed=3), [model], base)["x"]
    assert torch.equal(found, again)
    other = merge_tensors(Dare(0.25, seed=3), [base, model], base)["x"] != 0
    assert (kept & other).double().mean().item() == pytest.approx(1 / 16, abs=0.01), "models draw apart"


@pytest.mark.method("dare_ties")
def test_dare_ties_elects_after_the_draw() -> None:
    base = {"x": torch.zeros(20_000)}
    models = [{"x": torch.full((20_000,), value)} for value in (3.0, -2.0)]
    found = merge_tensors(DareTies(0.5), models, base)["x"]
    # Both stay: 3 wins. One stays: it alone. All at twice their size.
    shares = {value: (found == value).double().mean().item() for value in (6.0, -4.0, 0.0)}
    assert shares == pytest.approx({6.0: 0.5, -4.0: 0.25, 0.0: 0.25}, abs=0.015)


@pytest.mark.method("breadcrumbs")
def test_breadcrumbs_drops_both_ends() -> None:
    order = torch.randperm(100, generator=generator()).float() + 1
    signs = normal(100).sign()
    found = merge_tensors(Breadcrumbs(0.3, 0.1, 2.0), [{"x": order * signs}], {"x": torch.zeros(100)})["x"]
    inside = (order <= 90) & (order > 60)
    assert torch.equal(found, torch.where(inside, 2 * order * signs, 0.0))


@pytest.mark.method("model_stock")
def test_model_stock_draws_the_mean_to_the_base_by_the_angle() -> None:
    base, models = family(3)
    found = merge_tensors(ModelStock(), models, base)
    for name, value in found.items():
        taus = [(model[name] - base[name]).double().flatten() for model in models]
        cosines = [torch.cosine_similarity(taus[a], taus[b], 0) for a in range(3) for b in range(a)]
        cosine = max(0.0, float(sum(cosines)) / 3)
        ratio = 3 * cosine / (1 + 2 * cosine)
        expected = base[name].double().flatten() + ratio * sum(taus) / 3
        torch.testing.assert_close(value.flatten().double(), expected, rtol=1e-6, atol=1e-6)
    # Parallel task vectors: the mean. Orthogonal ones: the base.
    zero, e = torch.zeros(2), torch.eye(2)
    assert close(merge_tensors(ModelStock(), [{"x": e[0]}, {"x": 3 * e[0]}], {"x": zero}), {"x": 2 * e[0]})
    assert close(merge_tensors(ModelStock(), [{"x": e[0]}, {"x": e[1]}], {"x": zero}), {"x": zero})


@pytest.mark.method("tall_masks_consensus")
def test_consensus_drops_what_only_one_task_needs() -> None:
    base = {"x": torch.zeros(6)}
    models = [{"x": torch.tensor([1.0, 0, 0, 2, 5, 0])}, {"x": torch.tensor([0, 3.0, 0, 2, -5, 0])}]
    found = merge_tensors(TallMasksConsensus(threshold=0.9, tasks=2), models, base)["x"]
    assert found.tolist() == [0, 0, 0, 4, 0, 0]
    every = merge_tensors(TallMasksConsensus(tasks=0), models, base)
    assert same(every, merge_tensors(TaskArithmetic(), models, base))


@pytest.mark.method("layer_swapping")
def test_layer_swapping_puts_one_model_s_layers_into_the_other() -> None:
    names = {f"layers.{i}.w": (3,) for i in range(8)} | {"embeddings": (4,), "head": (4,)}
    base = tensors(0, shapes=names)
    middle, ends = near(base, 1), near(base, 2)
    assert same(merge_tensors(LayerSwapping(0, 0, 0), [middle, ends]), middle)
    assert same(merge_tensors(LayerSwapping(5, 3, 2), [middle, ends]), ends)
    found = merge_tensors(LayerSwapping(2, 1, 1), [middle, ends])
    from_ends = {"embeddings", "head", "layers.0.w", "layers.1.w", "layers.7.w"}
    for name, value in found.items():
        mean = (middle[name].double() + ends[name].double()) / 2
        if name in ("layers.2.w", "layers.6.w"):
            assert torch.equal(value, mean.float())
        else:
            assert torch.equal(value, (ends if name in from_ends else middle)[name])
    # Experts that differ from the base in disjoint layers: the sum of both task vectors.
    ends |= {f"layers.{i}.w": base[f"layers.{i}.w"] for i in range(2, 7)}
    middle |= {name: base[name] for name in from_ends}
    swapped = merge_tensors(LayerSwapping(2, 1, 0), [middle, ends])
    assert same(swapped, merge_tensors(TaskArithmetic(), [middle, ends], base))
    with pytest.raises(ConfigError, match="more than the model's 8 layers"):
        merge_tensors(LayerSwapping(6, 3), [middle, ends])


@pytest.mark.method("passthrough")
def test_passthrough_is_the_model() -> None:
    model = tensors(4, torch.bfloat16)
    assert same(merge_tensors(Passthrough(), [model]), model)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (Ties, {"densty": 0.3}, "no option 'densty' .did you mean 'density'"),
        (Ties, {"density": 1.5}, "between 0 and 1"),
        (Ties, {"density": "most"}, "is a number"),
        (Dare, {"seed": 0.5}, "whole number"),
        (Ties, {"per_tensor": 2}, "per_tensor is 0 or 1, not 2"),
        (Breadcrumbs, {"density": 0.9, "top": 0.2}, "more than the whole"),
        (Linear, {"t": 1}, "it has none"),
    ],
)
def test_options_that_cannot_be_meant(kind: type[Merge], options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        made(kind, kind.__name__.lower(), options)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda base, models: merge_tensors(Ties(), models), "name the base"),
        (lambda base, models: merge_tensors(Slerp(), models), "merges 2 models, not 3"),
        (lambda base, models: merge_tensors(Linear(), models, weights=[1.0]), "1 weights for 3 models"),
        (lambda base, models: merge_tensors(Ties(), models, base, [1, 0, 1]), "above 0"),
        (lambda base, models: merge_tensors(ModelStock(), models[:1], base), "two models or more"),
    ],
)
def test_models_that_a_method_does_not_take(call: Callable, says: str) -> None:
    base, models = family(3)
    with pytest.raises(ConfigError, match=says):
        call(base, models)
