"""Gradients split by task equal those of one backward pass a task."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.running import Batch
from taskheads.errors import BackboneError
from taskheads.sharing.gradients import GradientSplitter, TaskGradients
from tests.backbone.models import CONFIGS, DEBERTA, VIT, tiny
from tests.sharing.steps import ROWS, by_brute_force, losses_of, text_batch

PADDED = "padded"


def made(architecture: str, dtype: torch.dtype = torch.float32) -> tuple[Backbone, Batch]:
    name = architecture.removesuffix(" padded")
    config = {"vit": VIT, "deberta": DEBERTA}.get(name) or CONFIGS[name]
    backbone = Backbone(tiny(config).to(dtype))
    if architecture.endswith(PADDED):
        backbone.why_padded = "the test says so"
    if backbone.vision:
        generator = torch.Generator().manual_seed(0)
        return backbone, backbone.images(torch.randn(sum(ROWS), 3, 8, 8, generator=generator).to(dtype))
    return backbone, text_batch()


def split(backbone: Backbone, batch: Batch, read: str = "output") -> TaskGradients:
    gradients = GradientSplitter(backbone).start(len(ROWS))
    gradients.backward(losses_of(gradients.run(batch, ROWS, [read])[read], batch))
    return gradients


def assert_equal(mine: torch.Tensor, theirs: torch.Tensor, tolerance: float, name: str = "") -> None:
    """Equal relative to the largest entry, but for gradients that are zero up to rounding."""
    scale = max(float(theirs.abs().max()), 3e-2)
    torch.testing.assert_close(
        mine / scale, theirs / scale, atol=tolerance, rtol=0.0, msg=lambda m: f"{name}: {m}"
    )


def grad_of(parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


PADDED_TOO = [f"{name} {PADDED}" for name in ("bert", "distilbert", "gpt2", "mixtral", "t5")]
EVERYWHERE = [*CONFIGS, *PADDED_TOO, "deberta", "vit"]
# torch has no grouped matrix product in float64, which is how transformers runs experts.
PRECISE = [name for name in EVERYWHERE if "mixtral" not in name]


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [(name, torch.float32) for name in EVERYWHERE] + [(name, torch.float64) for name in PRECISE],
    ids=lambda each: str(each).removeprefix("torch."),
)
def test_each_task_has_the_gradient_of_its_own_loss(architecture: str, dtype: torch.dtype) -> None:
    backbone, batch = made(architecture, dtype)
    expected = by_brute_force(backbone, batch)
    gradients = split(backbone, batch)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    found = dict(gradients.stacks())
    assert list(found) == list(expected)
    for name, theirs in expected.items():
        assert_equal(found[name], theirs, tolerance, name)
    flat = torch.cat([each.flatten(1) for each in expected.values()], 1).double()
    assert flat[[0, 1, 3]].any(1).all()
    assert not flat[2].any()
    assert_equal(gradients.gramian(), flat @ flat.T, tolerance, "Gramian")
    weights = torch.tensor([0.5, -1.0, 3.0, 2.0], dtype=torch.float64)
    gradients.combine(weights)
    for name, parameter in backbone.model.named_parameters():
        assert_equal(
            grad_of(parameter), torch.tensordot(weights.to(dtype), expected[name], 1), tolerance, name
        )


def test_the_pass_is_the_plain_pass_bit_for_bit() -> None:
    backbone, batch = made("bert")
    plain = backbone.run(batch, ["layers.1.output", "output"])
    split = GradientSplitter(backbone).start(len(ROWS)).run(batch, ROWS, ["layers.1.output", "output"])
    assert all(torch.equal(plain[site], split[site]) for site in plain)


def plain_gradients(backbone: Backbone, batch: Batch) -> list[torch.Tensor]:
    backbone.model.zero_grad()
    sum(losses_of(backbone.run(batch)["output"], batch)).backward()
    return [grad_of(p) for p in backbone.model.parameters()]


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "qwen3", "modernbert"])
def test_with_dropout_the_tasks_sum_to_the_plain_gradient(architecture: str) -> None:
    backbone, batch = made(architecture)
    splitter = GradientSplitter(backbone)
    for module in backbone.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
    backbone.model.train()
    torch.manual_seed(5)
    expected = plain_gradients(backbone, batch)
    backbone.model.zero_grad()
    torch.manual_seed(5)
    gradients = splitter.start(len(ROWS))
    gradients.backward(losses_of(gradients.run(batch, ROWS)["output"], batch))
    gradients.combine(torch.ones(len(ROWS)))
    assert backbone.model.training
    for parameter, theirs in zip(backbone.model.parameters(), expected, strict=True):
        assert_equal(grad_of(parameter), theirs, 1e-5)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_under_autocast_the_tasks_sum_to_the_plain_gradient(architecture: str) -> None:
    backbone, batch = made(architecture)
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain_gradients(backbone, batch)
        backbone.model.zero_grad()
        gradients = split(backbone, batch)
    gradients.combine(torch.ones(len(ROWS)))
    for parameter, theirs in zip(backbone.model.parameters(), expected, strict=True):
        assert grad_of(parameter).dtype == torch.float32
        difference = float((grad_of(parameter) - theirs).norm() / theirs.norm().clamp(min=1e-1))
        assert difference < 2e-2  # three digits are what bfloat16 has


@pytest.mark.parametrize("architecture", ["bert", "llama", "t5", "deberta", "vit"])
def test_what_is_frozen_stays_out(architecture: str) -> None:
    backbone, batch = made(architecture)
    splitter = GradientSplitter(backbone)
    frozen = ("embed", "shared", ".0.", "0.attention")
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
    expected = by_brute_force(backbone, batch)
    gradients = splitter.start(len(ROWS))
    gradients.backward(losses_of(gradients.run(batch, ROWS)["output"], batch))
    found = dict(gradients.stacks())
    gradients.combine(torch.ones(len(ROWS)))
    assert 0 < len(found) < len(list(backbone.model.parameters()))
    for name, parameter in backbone.model.named_parameters():
        assert parameter.requires_grad == (name in found)
        if name in found:
            assert_equal(found[name], expected[name], 1e-5, name)
        else:
            assert parameter.grad is None


def test_a_read_below_the_top_leaves_the_layers_above_without_gradient() -> None:
    backbone, batch = made("bert")
    expected = by_brute_force(backbone, batch, read="layers.0.output")
    for name, found in split(backbone, batch, "layers.0.output").stacks():
        assert_equal(found, expected[name], 1e-5, name)
        assert "layer.1." not in name or not found.any()


def test_a_parameter_that_no_loss_reaches_is_left_alone_as_in_a_plain_step() -> None:
    backbone, batch = made("bert")
    plain_gradients(backbone, batch)
    plain = [p.grad is None for p in backbone.model.parameters()]
    backbone.model.zero_grad()
    split(backbone, batch).combine(torch.ones(len(ROWS)))
    assert [p.grad is None for p in backbone.model.parameters()] == plain
    assert 0 < sum(plain) < len(plain)


@pytest.mark.parametrize("architecture", ["bert", "llama", "t5"])
def test_micro_batches_and_passes_add_up(architecture: str) -> None:
    """Two backward passes in one step, two steps into one `.grad`, and two passes in one graph: all sums."""
    backbone, _ = made(architecture, torch.float64)
    batches = [text_batch(seed) for seed in (0, 1)]
    each = [by_brute_force(backbone, batch) for batch in batches]
    splitter = GradientSplitter(backbone)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = {name: torch.tensordot(weights.double(), each[0][name] + each[1][name], 1) for name in each[0]}

    def one_step_of_two_backward_passes() -> None:
        gradients = splitter.start(len(ROWS))
        for batch in batches:
            gradients.backward(losses_of(gradients.run(batch, ROWS)["output"], batch))
        gradients.combine(weights)

    def two_steps() -> None:
        for batch in batches:
            gradients = splitter.start(len(ROWS))
            gradients.backward(losses_of(gradients.run(batch, ROWS)["output"], batch))
            gradients.combine(weights)

    def two_passes_in_one_graph() -> None:
        gradients = splitter.start(len(ROWS))
        losses = [losses_of(gradients.run(batch, ROWS)["output"], batch) for batch in batches]
        gradients.backward([one + other for one, other in zip(*losses, strict=True)])
        gradients.combine(weights)

    for way in (one_step_of_two_backward_passes, two_steps, two_passes_in_one_graph):
        backbone.model.zero_grad()
        way()
        for name, parameter in backbone.model.named_parameters():
            assert_equal(grad_of(parameter), expected[name], 1e-10, f"{way.__name__}, {name}")


def state_of(model: nn.Module) -> list[object]:
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for m in model.modules()
    ]
    return [hooks, [(p.requires_grad, p.grad) for p in model.parameters()], model.training]


@pytest.mark.parametrize("architecture", ["bert", "llama", "t5", "mixtral"])
def test_nothing_is_left_behind_by_an_exception(architecture: str) -> None:
    backbone, batch = made(architecture)
    next(backbone.model.parameters()).requires_grad_(False)
    before = state_of(backbone.model)
    gradients = GradientSplitter(backbone).start(len(ROWS))

    def breaks(_: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gradients.run(batch, ROWS, ["output"], {"layers.1.output": breaks})
    assert state_of(backbone.model) == before
    output = gradients.run(batch, ROWS)["output"]
    assert state_of(backbone.model) == before
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradients.backward([torch.zeros(()) for _ in ROWS])
    assert state_of(backbone.model) == before
    gradients.backward(losses_of(output, batch))
    assert state_of(backbone.model) == before


def test_heads_and_edits_get_their_plain_gradient() -> None:
    backbone, batch = made("bert")
    offset = torch.zeros(backbone.width, requires_grad=True)
    head = nn.Linear(backbone.width, 1)
    edits = {"layers.0.output": lambda hidden: hidden + offset}
    sum(losses_of(head(backbone.run(batch, ["output"], edits)["output"]), batch)).backward()
    expected = [offset.grad, head.weight.grad]
    offset.grad = head.weight.grad = None
    gradients = GradientSplitter(backbone).start(len(ROWS))
    gradients.backward(losses_of(head(gradients.run(batch, ROWS, ["output"], edits)["output"]), batch))
    torch.testing.assert_close([offset.grad, head.weight.grad], expected, rtol=1e-5, atol=1e-5)


class _InTurn:
    """The sum over threads that call it together, in place."""

    def __init__(self, count: int) -> None:
        self._given: list[torch.Tensor] = []
        self._barrier = threading.Barrier(count, timeout=20)

    def __call__(self, tensor: torch.Tensor) -> None:
        self._given.append(tensor.clone())
        self._barrier.wait()
        total = torch.stack(self._given).sum(0)
        if self._barrier.wait() == 0:
            self._given = []
        self._barrier.wait()
        tensor.copy_(total)


@pytest.mark.parametrize("architecture", ["bert", "llama", "t5"])
def test_gradients_of_two_processes_are_those_of_one(architecture: str) -> None:
    backbone, _ = made(architecture, torch.float64)
    batches = [text_batch(seed) for seed in (0, 1)]
    expected = [by_brute_force(backbone, batch) for batch in batches]
    several = [split(backbone, batch) for batch in batches]
    together = _InTurn(2)
    threads = [threading.Thread(target=each.reduce, args=(together,)) for each in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for gradients in several:
        for name, found in gradients.stacks():
            assert_equal(found, expected[0][name] + expected[1][name], 1e-10, name)
    torch.testing.assert_close(several[0].gramian(), several[1].gramian())


def test_a_rule_for_each_weight_sees_the_gradients_of_all_tasks() -> None:
    backbone, batch = made("bert")
    expected = by_brute_force(backbone, batch)
    split(backbone, batch).combine_elementwise(lambda stack: stack.abs().max(0).values)
    for name, parameter in backbone.model.named_parameters():
        assert_equal(grad_of(parameter), expected[name].abs().max(0).values, 1e-5, name)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_is_refused() -> None:
    backbone, _ = made("bert")
    backbone.model.gradient_checkpointing_enable()
    with pytest.raises(BackboneError, match="gradient checkpointing"):
        GradientSplitter(backbone)
