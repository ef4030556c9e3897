"""The gradients of every task for the shared backbone, from one backward pass.

Rows of different tasks meet nowhere in the backbone, and a batch is sorted by task. So the gradient of one
task's loss for a weight depends only on the output gradient at the task's slice, and one backward pass of the
summed losses holds all of them: they need only be kept apart where a weight's gradient is summed up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.changes import Change, Changes
from taskheads.backbone.running import Batch
from taskheads.errors import BackboneError
from taskheads.sharing.kept import ParameterGradients
from taskheads.sharing.plan import Plan, modules_that_follow
from taskheads.sharing.recording import Recorder
from taskheads.sharing.slices import Slices
from taskheads.sharing.task_by_task import task_by_task


class GradientSplitter:
    """Knows how to split the gradients of one backbone by task; made once, used for every step.

    Making it runs a batch of three short rows, to see which modules follow the batch's rows or tokens. Those
    which do not (the relative position bias of T5, the relative embeddings of DeBERTa) mix the tasks'
    gradients: they get theirs from one backward pass for each task, which is as exact and much slower.

    Gradient checkpointing is not supported: it raises BackboneError.
    """

    def __init__(self, backbone: Backbone) -> None:
        if any(getattr(module, "gradient_checkpointing", False) for module in backbone.model.modules()):
            raise BackboneError(
                "gradients cannot be split by task under gradient checkpointing: switch it off"
            )
        self.backbone = backbone
        self._following = modules_that_follow(backbone)

    def start(self, n_tasks: int) -> TaskGradients:
        """Begin a step of `n_tasks` tasks, for the parameters of the backbone that require a gradient now."""
        return TaskGradients(self.backbone, n_tasks, Plan.of(self.backbone, self._following))


class TaskGradients:
    """The gradients of T tasks for the trained parameters of a backbone, in one step of training.

    In a step: `run` (as often as needed), `backward` (once for each micro-batch), `gramian`, `combine`.
    Parameters outside the backbone (heads, edits) get their plain `.grad` from `backward`; those of the
    backbone get theirs from `combine` alone. Dropout is as in the plain step.
    """

    def __init__(self, backbone: Backbone, n_tasks: int, plan: Plan) -> None:
        self.backbone, self.n_tasks = backbone, n_tasks
        self._plan, self._names = plan, plan.trained
        self._kept = {parameter: ParameterGradients(parameter, n_tasks) for parameter in plan.trained}
        self._leaves: dict[torch.Tensor, torch.Tensor] = {}
        # The first tensor of the graph: with parameters switched off, nothing else would require a gradient.
        self._anchor = torch.zeros((), device=backbone.device, requires_grad=True)
        self._listening = False

    def run(
        self,
        batch: Batch,
        rows: Sequence[int],
        read: Sequence[str] = ("output",),
        changes: Changes | Mapping[str, Change] | None = None,
    ) -> dict[str, torch.Tensor]:
        """`Backbone.run` on a batch sorted by task: its first `rows[0]` rows are the first task's, and so on.

        `rows` [T] may hold zeros. Hooks and parameters are as before when this returns or raises.
        """
        if len(rows) != self.n_tasks:
            raise ValueError(f"rows of {len(rows)} tasks in a step of {self.n_tasks}")
        slices = Slices.of(batch, rows, ragged=self.backbone.ragged)
        with ExitStack() as stack:
            for module, recorder in self._plan.recorded:
                hook = self._hook(recorder, slices)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
            for module in self._plan.task_by_task:
                stack.enter_context(task_by_task(module, slices, self._copies(module)))
            stack.enter_context(_without_gradient(self._plan.split))
            return self.backbone.run(batch, read, changes)

    def backward(self, losses: Sequence[torch.Tensor]) -> None:
        """Backpropagate one scalar loss a task, [T]; what is found adds to earlier calls of this step."""
        if len(losses) != self.n_tasks:
            raise ValueError(f"{len(losses)} losses in a step of {self.n_tasks} tasks")
        mixed = self._plan.mixed
        for task, loss in enumerate(losses):
            if not mixed or not loss.requires_grad:  # a task may have no rows here
                continue
            found = torch.autograd.grad(loss, mixed, retain_graph=True, allow_unused=True)
            for parameter, gradient in zip(mixed, found, strict=True):
                if gradient is not None:
                    stack = gradient.new_zeros(self.n_tasks, *gradient.shape)
                    stack[task] = gradient
                    self._kept[parameter].add_stack(stack)
        self._listening = True
        before = [parameter.grad for parameter in mixed]
        for parameter in mixed:
            parameter.grad = None
        try:
            torch.stack([loss.reshape(()) for loss in losses]).sum().backward()
        finally:
            self._listening = False
            for parameter, earlier in zip(mixed, before, strict=True):
                parameter.grad = earlier
        for parameter, leaf in self._leaves.items():
            if leaf.grad is not None:
                self._kept[parameter].add_stack(leaf.grad)
                leaf.grad = None

    def gramian(self) -> torch.Tensor:
        """Inner products of the tasks' gradients over all trained parameters, float64 [T, T]."""
        total = torch.zeros(self.n_tasks, self.n_tasks, dtype=torch.float64, device=self._anchor.device)
        for kept in self._kept.values():
            if not kept.empty:
                total += kept.gramian()
        return total

    def combine(self, weights: torch.Tensor) -> None:
        """Add Σ_t weights[t] · gradient of task t to every parameter's `.grad`; this ends the step.

        A parameter that no loss has reached keeps the `.grad` it had.
        """
        self._end(lambda kept: kept.combined(weights))

    def combine_elementwise(self, rule: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Add `rule` of each parameter's gradients, [T, n] → [n], to its `.grad`; this ends the step.

        Rows of an embedding that no task has touched are left out, and get nothing.
        """

        def ruled(kept: ParameterGradients) -> torch.Tensor:
            rows, stack = kept.compact()
            found = rule(stack.flatten(1)).view(stack.shape[1:])
            if rows is None:
                return found
            return found.new_zeros(kept.parameter.shape).index_copy_(0, rows, found)

        self._end(ruled)

    def stacks(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, gradients [T, *shape]) of every trained parameter, one after the other."""
        return ((self._names[parameter], kept.stack()) for parameter, kept in self._kept.items())

    def reduce(self, all_reduce: Callable[[torch.Tensor], object]) -> None:
        """Put the sum (or mean) over processes in place of this process's gradients.

        `all_reduce` does so with one tensor, in place. Every process has the same tasks in the same order; a
        task without rows here has none in `rows` and a loss of zero.
        """
        for parameter, kept in self._kept.items():
            kept.reduce(all_reduce, table=parameter in self._plan.tables)

    def _end(self, combined: Callable[[ParameterGradients], torch.Tensor]) -> None:
        while self._kept:  # what is used is freed before the next is made
            parameter = next(iter(self._kept))
            kept = self._kept.pop(parameter)
            if kept.empty:  # as in a plain step, where the optimiser passes it over
                continue
            gradient = combined(kept)
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

    def _hook(self, recorder: Recorder, slices: Slices) -> Callable[..., torch.Tensor | None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor) -> torch.Tensor | None:
            if not torch.is_grad_enabled():
                return None
            x = args[0] if args else kwargs["input"]
            if slices.axis(x.shape) is None:  # positions, looked up once for all rows
                x, output = (each.expand(slices.total, *each.shape[1:]) for each in (x, output))
            if not output.requires_grad:
                output = output + self._anchor
            held = [x.detach()]

            def record(gradient: torch.Tensor) -> None:
                if self._listening:
                    recorder(module, held.pop(), gradient, slices, self._kept)

            output.register_hook(record)
            return output

        return hook

    def _copies(self, module: nn.Module) -> list[dict[str, torch.Tensor]]:
        """For each task a view of every trained parameter in `module`, whose gradient is the task's."""
        copies: list[dict[str, torch.Tensor]] = [{} for _ in range(self.n_tasks)]
        for name, parameter in module.named_parameters():
            if parameter in self._names:
                if parameter not in self._leaves:
                    leaf = parameter.detach().expand(self.n_tasks, *parameter.shape)
                    self._leaves[parameter] = leaf.requires_grad_()
                for copy, view in zip(copies, self._leaves[parameter].unbind(), strict=True):
                    copy[name] = view
        return copies


@contextmanager
def _without_gradient(parameters: Sequence[torch.Tensor]) -> Iterator[None]:
    """Autograd neither computes nor keeps anything for these parameters in what runs meanwhile."""
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
