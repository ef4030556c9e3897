"""What holds for every kind of head."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from taskheads.backbone.reads import Read
from taskheads.heads import Head, LinearHead, head_for
from taskheads.tasks.task import Task
from tests.heads.planted import make_task, normal

WIDTH, ROWS = 6, 10
LENGTHS = [4, 1, 3, 2]
TASKS = {
    "classify": make_task("classify", "abc"),
    "multilabel": make_task("multilabel", "abc"),
    "regress": make_task("regress"),
    "ordinal": make_task("ordinal", (1, 2, 3)),
    "tag": make_task("tag", ("B-X", "I-X", "O")),
    "crf": make_task("tag", ("B-X", "I-X", "O"), crf=True),
    "pair": make_task("pair", "abc"),
    "joint": make_task("pair", "abc", encoding="joint"),
    "similarity": make_task("pair"),
    "embed": make_task("embed"),
}
TARGETS: dict[str, Any] = {
    "multilabel": normal(ROWS, 3, seed=3) < 0,
    "regress": normal(ROWS, seed=2).double(),
    "embed": None,
}


def reads_of(task: Task) -> list[Read]:
    pooling = "words" if task.kind == "tag" else "mean"
    return [Read("layers.0.output", pooling), Read("output", pooling)]


def found_for(head: Head, rows: int = ROWS) -> list[dict[Read, torch.Tensor]]:
    return [
        {read: normal(rows, WIDTH, seed=7 * at + i).requires_grad_(True) for i, read in enumerate(head.reads)}
        for at in range(len(head.requests))
    ]


@pytest.fixture(params=list(TASKS))
def head(request: pytest.FixtureRequest) -> Head:
    task = TASKS[request.param]
    made = head_for(task)(task, reads_of(task), WIDTH)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return made


def targets_of(head: Head, rows: int = ROWS) -> torch.Tensor | None:
    name = "regress" if head.kind == "similarity" else head.kind
    targets = TARGETS.get(name, torch.arange(rows) % 3)
    return targets if targets is None else targets[:rows]


def test_gathered_features_are_as_wide_as_said(head: Head) -> None:
    assert head.gather(found_for(head)).shape[-1] == head.features
    if isinstance(head, LinearHead):
        assert head.weight.shape == (head.features, head.outputs)


def test_gradients_flow_to_the_head_and_to_the_features(head: Head) -> None:
    found = found_for(head)
    loss = head.loss(head(head.gather(found)), targets_of(head), LENGTHS)
    assert loss.shape == ()
    loss.backward()
    for name, parameter in head.named_parameters():
        # A bias beside thresholds is redundant, yet has its gradient.
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
    for side in found:
        for read, values in side.items():
            assert values.grad.any(), read


def test_a_step_along_the_gradient_lowers_the_loss(head: Head) -> None:
    features, targets = head.gather(found_for(head)).detach(), targets_of(head)
    optimiser = torch.optim.SGD(head.parameters(), lr=1e-3)
    before = head.loss(head(features), targets, LENGTHS)
    before.backward()
    optimiser.step()
    assert head.loss(head(features), targets, LENGTHS) < before


def test_a_batch_without_rows_costs_nothing(head: Head) -> None:
    """No NaN that would spread from one task's empty batch to the others."""
    scores = head(head.gather(found_for(head, 0)))
    loss = head.loss(scores, targets_of(head, 0), [])
    assert float(loss.detach()) == 0
    loss.backward()


def test_weights_survive_a_round_trip(head: Head) -> None:
    again = type(head)(head.task, head.reads, head.width)
    again.load_state_dict(head.state_dict())
    features = head.gather(found_for(head))
    assert torch.equal(again(features), head(features))
