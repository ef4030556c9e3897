"""What is kept of the tasks' gradients for one parameter, in the form that costs least."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

_Product = tuple[torch.Tensor, torch.Tensor, list[int]]


class ParameterGradients:
    """The gradients of T tasks for one parameter of shape [...].

    Three forms add up: a stack [T, ...]; products of two matrices that belong to a linear map, kept as they
    are while they are smaller than the stack they make; and the touched rows of an embedding table.
    """

    def __init__(self, parameter: torch.Tensor, n_tasks: int) -> None:
        self.parameter, self.n_tasks = parameter, n_tasks
        self._stack: torch.Tensor | None = None
        self._products: list[_Product] = []
        self._rows: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    @property
    def empty(self) -> bool:
        """Whether no loss has reached the parameter."""
        return self._stack is None and not self._products and not self._rows

    def add_stack(self, stack: torch.Tensor) -> None:
        """Add one gradient a task, [T, ...]; the tensor is the caller's no longer."""
        stack = stack.to(self.parameter.dtype)
        self._stack = stack if self._stack is None else self._stack.add_(stack)

    def add_products(self, left: torch.Tensor, right: torch.Tensor, sizes: Sequence[int]) -> None:
        """Add leftᵀ right, [n, a] and [n, b] whose rows are split between the tasks by `sizes`."""
        self._products.append((left, right, list(sizes)))
        held = sum(left.numel() + right.numel() for left, right, _ in self._products)
        if self._stack is not None or held >= self.n_tasks * self.parameter.numel():
            self._multiply_out()

    def add_rows(self, ids: torch.Tensor, tasks: torch.Tensor, gradients: torch.Tensor) -> None:
        """Add gradients [n, width] to the rows `ids` [n] of the table, for the `tasks` [n]."""
        self._rows.append((ids, tasks, gradients.to(self.parameter.dtype)))

    def stack(self) -> torch.Tensor:
        """All of it as [T, ...]."""
        stack = None if self._stack is None else self._stack.clone()
        for product in self._products:
            stack = self._with(product, stack)
        if stack is None:
            stack = self.parameter.new_zeros(self.n_tasks, *self.parameter.shape)
        for ids, tasks, gradients in self._rows:
            stack.index_put_((tasks, ids), gradients, accumulate=True)
        return stack

    def compact(self) -> tuple[torch.Tensor | None, torch.Tensor]:
        """(rows, stack [T, rows, ...]), without the rows that no task has touched; None means all rows."""
        if self._stack is not None or self._products or not self._rows:
            whole = self._stack if not (self._products or self._rows) else None
            return None, self.stack() if whole is None else whole
        touched, at = torch.unique(torch.cat([ids for ids, _, _ in self._rows]), return_inverse=True)
        stack = self.parameter.new_zeros(self.n_tasks, len(touched), *self.parameter.shape[1:])
        tasks = torch.cat([tasks for _, tasks, _ in self._rows])
        stack.index_put_((tasks, at), torch.cat([each for _, _, each in self._rows]), accumulate=True)
        return touched, stack

    def gramian(self) -> torch.Tensor:
        """Inner products of the tasks' gradients, float64 [T, T]."""
        flat = self.compact()[1].flatten(1)
        if flat.dtype in (torch.float16, torch.bfloat16):
            flat = flat.float()
        return (flat @ flat.T).double()

    def combined(self, weights: torch.Tensor) -> torch.Tensor:
        """The sum of the tasks' gradients times `weights` [T], of the parameter's shape."""
        weights = weights.to(self.parameter)
        total = None if self._stack is None else torch.tensordot(weights, self._stack, 1)
        for left, right, sizes in self._products:
            each = weights.to(left.dtype).repeat_interleave(torch.tensor(sizes, device=weights.device))
            product = ((left * each[:, None]).T @ right).to(self.parameter.dtype)
            total = product if total is None else total.add_(product)
        if total is None:
            total = self.parameter.new_zeros(self.parameter.shape)
        for ids, tasks, gradients in self._rows:
            total.index_put_((ids,), gradients * weights[tasks, None], accumulate=True)
        return total

    def reduce(self, all_reduce: Callable[[torch.Tensor], object], *, table: bool) -> None:
        """Put the sum or mean over processes in place of what this one has; `all_reduce` works in place.

        All processes call it in the same order, with the same T. Of a `table` (an embedding) only rows that
        some process has touched travel.
        """
        if not table:
            stack = self.stack()
            all_reduce(stack)
            self._stack, self._products = stack, []
            return
        rows, mine = self.compact()
        touched = torch.zeros(len(self.parameter), device=self.parameter.device)
        touched[slice(None) if rows is None else rows] = float(bool(self._rows))
        all_reduce(touched)
        everywhere = touched.nonzero()[:, 0]
        stack = self.parameter.new_zeros(self.n_tasks, len(everywhere), *self.parameter.shape[1:])
        if rows is not None:
            stack[:, torch.searchsorted(everywhere, rows)] = mine
        all_reduce(stack)
        tasks = torch.arange(self.n_tasks, device=stack.device).repeat_interleave(len(everywhere))
        self._rows = [(everywhere.repeat(self.n_tasks), tasks, stack.flatten(0, 1))]

    def _multiply_out(self) -> None:
        while self._products:
            self._stack = self._with(self._products.pop(), self._stack)

    def _with(self, product: _Product, stack: torch.Tensor | None) -> torch.Tensor:
        """`stack` plus a product; a new one where there is none yet."""
        left, right, sizes = product
        made = self.parameter.new_empty(self.n_tasks, *self.parameter.shape) if stack is None else stack
        for task, (mine, other) in enumerate(zip(left.split(sizes), right.split(sizes), strict=True)):
            if stack is not None:
                made[task] += mine.T @ other
            elif mine.dtype == made.dtype:
                torch.mm(mine.T, other, out=made[task])
            else:
                made[task] = mine.T @ other
        return made
