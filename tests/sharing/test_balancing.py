"""Gradient balancers: equal to torchjd on the full Jacobian, and each with its paper's property."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import pytest
import torch

from taskheads.errors import ConfigError
from taskheads.sharing.balancing import BALANCERS, balancer, representation_gradients
from taskheads.sharing.gradients import GradientSplitter
from tests.sharing.steps import losses_of
from tests.sharing.test_gradients import made

aggregation = pytest.importorskip("torchjd.aggregation")
pytestmark = pytest.mark.filterwarnings("ignore:You are solving a parameterized problem:UserWarning")

EXACT = [name for name in BALANCERS if not name.endswith("_at_representation")]


def gradients(n_tasks: int = 4, seed: int = 0, width: int = 30, conflict: float = 1.0) -> torch.Tensor:
    """Rows [T, width] of different lengths, all of which conflict with some other."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n_tasks, width, generator=generator, dtype=torch.float64)
    rows -= conflict * rows.mean(0)
    return rows * torch.linspace(0.5, 2.0, n_tasks, dtype=torch.float64)[:, None]


def balanced(
    name: str, rows: torch.Tensor, losses: torch.Tensor | None = None, **options: Any
) -> torch.Tensor:
    """The balanced gradient of rows [T, n], which decide by nothing but their Gramian."""
    given = torch.ones(len(rows)) if losses is None else losses
    return balancer(name, len(rows), **options).weights(rows @ rows.T, given) @ rows


PEERS: dict[str, Callable[[int], Any]] = {
    "pcgrad": lambda _: aggregation.PCGrad(),
    "gradvac": lambda _: aggregation.GradVac(),
    "cagrad": lambda _: aggregation.CAGrad(c=0.4),
    "upgrad": lambda _: aggregation.UPGrad(),
    "dualproj": lambda _: aggregation.DualProj(),
    "config": lambda _: aggregation.ConFIG(),
    "mgda": lambda _: aggregation.MGDA(),
    "imtl_g": lambda _: aggregation.IMTLG(),
    "aligned_mtl": lambda _: aggregation.AlignedMTL(),
    "fairgrad": lambda _: aggregation.FairGrad(alpha=2.0),
    "nash_mtl": lambda n_tasks: aggregation.NashMTL(n_tasks),
}


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("seed", range(5))
def test_equals_torchjd_on_the_full_jacobian(name: str, seed: int) -> None:
    rows = gradients(seed=seed, conflict=0.8)
    torch.manual_seed(seed)
    theirs = PEERS[name](len(rows))(rows)
    torch.manual_seed(seed)
    mine = balanced(name, rows)
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-4


@pytest.mark.parametrize("name", PEERS)
def test_a_step_of_a_real_backbone_equals_torchjd(name: str) -> None:
    backbone, batch = made("bert")
    rows = (3, 1, 2, 2)
    named = list(backbone.model.parameters())
    losses = losses_of(backbone.run(batch)["output"], batch, rows)
    found = [torch.autograd.grad(loss, named, retain_graph=True, allow_unused=True) for loss in losses]
    used = [p for p, gradient in zip(named, found[0], strict=True) if gradient is not None]
    jacobian = torch.stack([torch.cat([g.flatten() for g in task if g is not None]) for task in found])
    torch.manual_seed(3)
    theirs = PEERS[name](len(rows))(jacobian)
    gradients = GradientSplitter(backbone).start(len(rows))
    losses = losses_of(gradients.run(batch, rows)["output"], batch, rows)
    gradients.backward(losses)
    torch.manual_seed(3)
    weights = balancer(name, len(rows)).balance(gradients, torch.stack(losses))
    mine = torch.cat([p.grad.flatten() for p in used])
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-4
    torch.testing.assert_close(
        weights.float() @ jacobian, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max())
    )


@pytest.mark.method("pcgrad")
def test_pcgrad_leaves_no_conflict_between_two_tasks() -> None:
    first, second = rows = torch.tensor([[2.0, 1.0, 0.0], [-1.0, 1.0, 3.0]]).double()
    assert first @ second < 0
    off = [
        first - (first @ second) / (second @ second) * second,
        second - (first @ second) / (first @ first) * first,
    ]
    torch.testing.assert_close(balanced("pcgrad", rows), off[0] + off[1])
    torch.testing.assert_close(torch.stack([off[0] @ second, off[1] @ first]), torch.zeros(2).double())
    agreeing = torch.tensor([[2.0, 1.0], [1.0, 1.0]]).double()
    torch.testing.assert_close(balanced("pcgrad", agreeing), agreeing.sum(0))


@pytest.mark.method("gradvac")
def test_gradvac_brings_the_cosine_up_to_what_is_usual() -> None:
    first, second = rows = torch.tensor([[2.0, 1.0, 0.0], [-1.0, 1.0, 3.0]]).double()
    vaccine = balancer("gradvac", 2)
    vaccine.load_state_dict({"usual": torch.full((2, 2), 0.3).double()})
    weights = vaccine.weights(rows @ rows.T, torch.ones(2))
    turned = first + (weights[1] - 1) * second, second + (weights[0] - 1) * first
    for mine, other in ((turned[0], second), (turned[1], first)):
        assert float(torch.cosine_similarity(mine, other, 0)) == pytest.approx(0.3, abs=1e-6)
    cosine = float(torch.cosine_similarity(first, second, 0))
    usual = vaccine.state_dict()["usual"]
    assert float(usual[0, 1]) == pytest.approx(0.5 * 0.3 + 0.5 * cosine, abs=1e-6)


@pytest.mark.method("cagrad")
def test_cagrad_gains_most_for_the_worst_task_within_its_ball() -> None:
    rows = gradients(conflict=0.5)
    mean = rows.mean(0)
    found = balanced("cagrad", rows, c=0.4)
    assert float((found - mean).norm() / mean.norm()) == pytest.approx(0.4, rel=1e-4)
    tries = torch.randn(5000, rows.shape[1], generator=torch.Generator().manual_seed(1)).double()
    tries = torch.cat([tries, tries @ rows.T @ rows, rows - mean])
    tries = mean + 0.4 * mean.norm() * tries / tries.norm(dim=1, keepdim=True)
    assert float((rows @ found).min()) >= float((tries @ rows.T).min(1).values.max()) - 1e-6
    torch.testing.assert_close(balanced("cagrad", rows, c=0.0), mean)


def onto_dual_cone(vector: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The nearest vector that has no negative inner product with a row."""
    from scipy.optimize import nnls

    multipliers, _ = nnls(rows.T.numpy(), -vector.numpy())
    return vector + torch.from_numpy(multipliers) @ rows


@pytest.mark.method("upgrad")
def test_upgrad_is_the_mean_of_projections_and_conflicts_with_no_task() -> None:
    rows = gradients(conflict=0.8)
    assert (rows @ rows.mean(0) < 0).any()
    found = balanced("upgrad", rows)
    expected = torch.stack([onto_dual_cone(row, rows) for row in rows]).mean(0)
    assert float((found - expected).norm() / expected.norm()) < 1e-2  # the solver's own regularisation
    assert (rows @ found > -1e-3 * rows.norm() * found.norm()).all()
    orthogonal = torch.eye(3, 5).double()
    torch.testing.assert_close(balanced("upgrad", orthogonal), orthogonal.mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.method("dualproj")
def test_dualproj_is_the_projected_mean() -> None:
    rows = gradients(conflict=0.8)
    expected = onto_dual_cone(rows.mean(0), rows)
    assert float((rows.mean(0) - expected).norm() / expected.norm()) > 0.3
    found = balanced("dualproj", rows)
    assert float((found - expected).norm() / expected.norm()) < 1e-2
    assert (rows @ found > -1e-3 * rows.norm() * found.norm()).all()


@pytest.mark.method("config")
def test_config_has_the_same_cosine_with_every_task() -> None:
    rows = gradients(conflict=0.9)
    found = balanced("config", rows)
    cosines = torch.cosine_similarity(rows, found[None], 1)
    assert float(cosines.min()) > 0
    torch.testing.assert_close(cosines, cosines[:1].expand(len(rows)), rtol=1e-4, atol=0.0)
    direction = found / found.norm()
    assert float(found.norm()) == pytest.approx(float((rows @ direction).sum()), rel=1e-4)


@pytest.mark.method("mgda")
def test_mgda_is_the_shortest_vector_of_the_hull() -> None:
    rows = gradients(n_tasks=3, conflict=0.5)
    chosen = balancer("mgda", 3, epsilon=1e-9, max_iters=20000)
    weights = chosen.weights(rows @ rows.T, torch.ones(3))
    found = weights @ rows
    assert float(weights.sum()) == pytest.approx(1.0)
    assert (weights >= 0).all()
    assert (rows @ found >= found @ found * (1 - 1e-2)).all()
    # Zero is in the hull where no task gains without another's loss.
    stuck = torch.cat([rows, -(rows.sum(0, keepdim=True))])
    there = balancer("mgda", 4, epsilon=1e-9, max_iters=20000).weights(stuck @ stuck.T, torch.ones(4)) @ stuck
    assert float(there.norm()) < 1e-2 * float(stuck.norm())


@pytest.mark.method("imtl_g")
def test_imtl_g_projects_equally_onto_all_tasks() -> None:
    rows = gradients(conflict=0.5)
    weights = balancer("imtl_g", len(rows)).weights(rows @ rows.T, torch.ones(len(rows)))
    projections = (weights @ rows) @ (rows / rows.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(projections, projections[:1].expand(len(rows)), rtol=1e-3, atol=0.0)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.method("aligned_mtl")
def test_aligned_mtl_makes_the_condition_number_one() -> None:
    rows = gradients(conflict=0.5)
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    aligned = values.min() * left @ right
    torch.testing.assert_close(torch.linalg.cond(aligned), torch.tensor(1.0).double())
    torch.testing.assert_close(balanced("aligned_mtl", rows), aligned.mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.method("fairgrad")
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_fairgrad_solves_its_equation_at_every_scale(alpha: float, scale: float) -> None:
    rows = scale * gradients(conflict=0.5)
    weights = balancer("fairgrad", len(rows), alpha=alpha).weights(rows @ rows.T, torch.ones(len(rows)))
    assert (weights > 0).all()
    torch.testing.assert_close(rows @ rows.T @ weights, weights ** (-1 / alpha), rtol=1e-3, atol=0.0)


@pytest.mark.method("nash_mtl")
def test_nash_mtl_does_not_mind_the_scale_of_a_loss() -> None:
    rows = gradients(conflict=0.5)
    weights = balancer("nash_mtl", len(rows)).weights(rows @ rows.T, torch.ones(len(rows)))
    gains = weights * (rows @ rows.T @ weights)
    torch.testing.assert_close(gains, gains[:1].expand(len(rows)), rtol=2e-2, atol=0.0)
    other = torch.tensor([10.0, 1.0, 0.5, 3.0]).double()[:, None] * rows
    one, same = balanced("nash_mtl", rows), balanced("nash_mtl", other)
    assert float(torch.cosine_similarity(one, same, 0)) > 0.999


@pytest.mark.method("graddrop")
def test_graddrop_keeps_one_sign_of_every_weight() -> None:
    backbone, batch = made("bert")
    splitter = GradientSplitter(backbone)
    name = "encoder.layer.2.output.dense.bias"
    parameter = backbone.model.get_parameter(name)
    for each in backbone.model.parameters():
        each.requires_grad_(each is parameter)
    rows = (3, 1, 2, 2)
    positive = torch.zeros(parameter.shape)
    for seed in range(100):
        gradients = splitter.start(len(rows))
        losses = losses_of(gradients.run(batch, rows)["output"], batch, rows)
        gradients.backward(losses)
        stack = dict(gradients.stacks())[name]
        torch.manual_seed(seed)
        assert balancer("graddrop", len(rows)).balance(gradients, torch.stack(losses)) is None
        kept = [stack.clamp(min=0).sum(0), stack.clamp(max=0).sum(0)]
        is_up, is_down = (torch.isclose(parameter.grad, each, rtol=1e-4, atol=1e-7) for each in kept)
        assert (is_up | is_down).all()
        positive += is_up
        backbone.model.zero_grad()
    purity = 0.5 * (1 + stack.sum(0) / stack.abs().sum(0))
    # Of 100 draws: within four standard deviations.
    assert ((positive / 100 - purity).abs() < 0.2).all()
    assert float((positive / 100 - purity).mean().abs()) < 0.03


@pytest.mark.method("graddrop")
def test_graddrop_equals_torchjd_draw_for_draw() -> None:
    backbone, batch = made("bert")
    parameter = backbone.model.get_parameter("encoder.layer.2.output.dense.weight")
    for each in backbone.model.parameters():
        each.requires_grad_(each is parameter)
    rows = (3, 1, 2, 2)
    gradients = GradientSplitter(backbone).start(len(rows))
    losses = losses_of(gradients.run(batch, rows)["output"], batch, rows)
    gradients.backward(losses)
    jacobian = dict(gradients.stacks())["encoder.layer.2.output.dense.weight"].flatten(1)
    torch.manual_seed(8)
    theirs = aggregation.GradDrop()(jacobian)
    torch.manual_seed(8)
    balancer("graddrop", len(rows)).balance(gradients, torch.stack(losses))
    torch.testing.assert_close(parameter.grad.flatten(), theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.method("gradnorm")
def test_gradnorm_without_pull_makes_the_norms_equal() -> None:
    chosen = balancer("gradnorm", 3, alpha=0.0, rate=0.002)
    gramian = torch.diag(torch.tensor([1.0, 4.0, 25.0]).double())
    for _ in range(1200):
        weights = chosen.weights(gramian, torch.ones(3))
    norms = weights * gramian.diagonal().sqrt()
    torch.testing.assert_close(norms, norms.mean().expand(3), rtol=0.03, atol=0.0)
    assert float(weights.sum()) == pytest.approx(3.0)


@pytest.mark.method("gradnorm")
def test_gradnorm_trains_tasks_of_unequal_scale_at_equal_rates() -> None:
    """½ s² |x|² in two subspaces, s = 1 and 3: with equal weights the second falls nine times as fast."""
    scales = torch.tensor([1.0, 9.0]).double()

    def rates(weigh: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        x = torch.ones(2).double()
        for _ in range(300):
            gradient = scales * x
            weights = weigh(torch.diag(gradient**2), 0.5 * scales * x**2)
            x = x - 0.005 * weights * gradient
        return x**2

    plain = rates(lambda gramian, losses: torch.ones(2).double())
    assert float(plain[0] / plain[1]) > 100
    even = rates(balancer("gradnorm", 2).weights)
    assert 0.9 < float(even[0] / even[1]) < 1.1
    assert float(even.max()) < 0.01


@pytest.mark.parametrize("name", ["upgrad", "mgda", "cagrad", "pcgrad"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_all_gradients_does_not_matter(name: str, scale: float) -> None:
    rows = gradients(conflict=0.9)
    torch.manual_seed(0)
    one = balanced(name, rows)
    torch.manual_seed(0)
    torch.testing.assert_close(balanced(name, scale * rows) / scale, one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    "gramian", [torch.zeros(3, 3), torch.full((3, 3), torch.nan)], ids=["zero", "overflow"]
)
def test_where_nothing_can_be_decided_tasks_count_equally(name: str, gramian: torch.Tensor) -> None:
    weights = balancer(name, 5).weights(gramian, torch.ones(3), [0, 2, 4])
    torch.testing.assert_close(weights, torch.full((3,), 1 / 3).double())


WITH_WEIGHTS = [name for name in EXACT if name != "graddrop"]


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_a_task_that_has_nothing_left_to_learn_spoils_nothing(name: str) -> None:
    """A zero gradient and a zero loss: the others' weights stay finite, and they still make progress."""
    rows = gradients(conflict=0.0)
    rows[1] = 0.0
    chosen, losses = balancer(name, 4), torch.tensor([1.0, 0.0, 2.0, 3.0])
    for _ in range(2):
        weights = chosen.weights(rows @ rows.T, losses)
    found = weights @ rows
    assert weights.isfinite().all()
    assert weights[1] == 0
    assert (rows[[0, 2, 3]] @ found > 0).all()


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_a_resumed_run_decides_the_same(name: str) -> None:
    """Also with tasks that are absent in some steps."""
    steps = [(0, 1, 2, 3), (0, 2, 3), (1, 3), (2,), (0, 1, 2, 3), (1, 2, 3)]

    def go(chosen: Any, start: int, stop: int) -> list[torch.Tensor]:
        found = []
        for at in range(start, stop):
            rows = gradients(seed=at, conflict=0.8)[list(steps[at])]
            found.append(
                chosen.weights(rows @ rows.T, torch.arange(1.0, len(rows) + 1) / (at + 1), steps[at])
            )
        return found

    torch.manual_seed(0)
    whole = go(balancer(name, 4), 0, 6)
    torch.manual_seed(0)
    first = balancer(name, 4)
    begun = go(first, 0, 3)
    state, generator = first.state_dict(), torch.get_rng_state()
    assert all(isinstance(each, torch.Tensor) for each in state.values())
    go(first, 3, 6)
    second = balancer(name, 4)
    second.load_state_dict(state)
    torch.set_rng_state(generator)
    for mine, theirs in zip(begun + go(second, 3, 6), whole, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.method("balancing_at_representation")
def test_the_gradient_at_the_representation_is_that_of_an_offset() -> None:
    backbone, batch = made("bert", torch.float64)
    rows, tokens = (3, 1, 4), (20, 7, 36)
    output = backbone.run(batch)["output"]
    found = representation_gradients(losses_of(output, batch, rows), output, tokens)
    offsets = torch.zeros(3, backbone.width, dtype=torch.float64, requires_grad=True)
    moved = output.detach() + offsets.repeat_interleave(torch.tensor(tokens), 0)
    (expected,) = torch.autograd.grad(sum(losses_of(moved, batch, rows)), offsets)
    torch.testing.assert_close(found, expected)
    # The graph is still there for the one ordinary backward pass.
    weights = balancer("upgrad_at_representation", 3).weights(found @ found.T, torch.ones(3))
    (weights @ torch.stack(losses_of(output, batch, rows))).backward()
    assert (found @ (weights @ found) > -1e-3).all()


def test_names_that_do_not_exist_and_options_that_do_not() -> None:
    with pytest.raises(ConfigError, match="did you mean 'upgrad'"):
        balancer("upgrd", 2)
    with pytest.raises(ConfigError, match="no gradient balancing 'graddrop_at_representation'"):
        balancer("graddrop_at_representation", 2)
    with pytest.raises(ConfigError, match="'mgda' has no such option"):
        balancer("mgda", 2, c=0.4)
    assert balancer("mgda_at_representation", 2).at_representation
    assert not balancer("mgda", 2).at_representation


def test_without_torchjd_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("torchjd"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install taskheads\[balance\]"):
        balancer("pcgrad", 2)
    assert balancer("gradnorm", 2).weights(torch.eye(2), torch.ones(2)).shape == (2,)
