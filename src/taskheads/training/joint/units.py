"""In what unit a task's loss is measured, so that losses of different kinds can be added."""

from __future__ import annotations

import math

import torch

from taskheads.heads import Head, LinearHead
from taskheads.training.joint.rows import TaskRows

# Rows that are enough to tell, and a loss that no answer is free of.
_ROWS = 500
_LEAST = 1e-3


def uninformed_loss(head: Head, rows: TaskRows, at_once: float) -> float:
    """The least mean loss of an answer that does not look at its input: for one label of several the entropy
    of the labels, for a number half its variance, and so on for every convex head.

    For `embed` it is that of a guess among the `at_once` documents of a step, log(at_once).
    """
    if not isinstance(head, LinearHead):
        return math.log(max(2.0, at_once))
    count = min(_ROWS, len(rows))
    lengths = None if rows.words is None else rows.words[:count].tolist()
    targets = rows.targets[: count if lengths is None else sum(lengths)]
    free = [torch.zeros(head.outputs), *(each.detach().clone() for each in head.extra)]
    for each in free:
        each.requires_grad_()
    solver = torch.optim.LBFGS(free, max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = head.objective(free[0].expand(len(targets), -1), targets, free[1:], lengths)
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
        return max(_LEAST, float(loss().detach()))
