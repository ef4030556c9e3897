"""Which task uses which attention head: planted ones are found, slopes are those of gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.planted import plant, prompts
from taskheads.attention.roles import pattern_statistics, roles
from taskheads.attention.scores import HeadScores
from taskheads.attention.smaller import smaller
from taskheads.attention.usage import asked_rows, gate_slopes, heads_of, importance, shares, used
from taskheads.backbone.branching import Branch
from taskheads.backbone.reads import Read
from taskheads.edits.edit import made as make
from taskheads.errors import ConfigError
from taskheads.heads import Head, head_for
from taskheads.model.model import Model
from taskheads.tasks.suite import Suite
from taskheads.tasks.task import Examples, Task
from taskheads.training.joint.batch import MixedBatch
from taskheads.training.joint.rows import TaskRows
from tests.small_models import KINDS, rows, tiny_backbone, tiny_model
from tests.training.joint.planted import planted

JOBS = ("memory", "successor")


def asked(job: str, head: torch.nn.Module) -> tuple[Head, TaskRows]:
    """A task whose label is the token that a planted attention head finds."""
    given = prompts(job, 12)
    task = Task(job, "classify", ("text",), job, "accuracy", tuple(map(str, range(len(head.weight)))))
    made = head_for(task)(task, [Read("output", "last")], head.weight.shape[1]).eval()
    made.put(head.weight.T, torch.zeros(len(head.weight)))
    tokens = np.asarray([len(row) for row in given.rows])
    return made, TaskRows((given.rows,), torch.from_numpy(given.answers), None, tokens)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_the_head_that_decides_a_task_is_its_most_important(architecture: str) -> None:
    model = plant(architecture, JOBS)
    heads = AttentionHeads(model.backbone)
    task_heads, given = {}, {}
    for job in JOBS:
        task_heads[job], given[job] = asked(job, model.head)
    found = importance(heads, task_heads, given)
    assert found.tasks == JOBS
    for job in JOBS:
        mine = found.of_task(job)
        assert mine.top(1) == (model.heads[job],)
        assert mine.manifest["n"] == 12
        assert mine.error[model.heads[job]] > 0
        assert used(found)[JOBS.index(job)].nonzero().tolist() == [list(model.heads[job])]
    torch.testing.assert_close(shares(found).values.sum((1, 2)), torch.ones(2))


@pytest.mark.parametrize(
    "name", ["topic", "labels", "size", "stars", "names", "chain", "same", "joint", "like"]
)
def test_a_slope_is_the_finite_difference_of_a_rows_own_loss(name: str) -> None:
    """In float64, each row alone in a batch; the rows are of many lengths, some with two texts."""
    heads, head, mine = in_float64(name)
    chosen = np.argsort(mine.tokens, kind="stable")[-3:]
    slopes = gate_slopes(heads, head, mine, chosen)
    for row, slope in zip(chosen, slopes, strict=True):
        torch.testing.assert_close(
            slope, differences(heads, head, mine, np.asarray([row])), atol=1e-8, rtol=1e-5
        )
    assert slopes.abs().max() > 1e-6


def test_rows_that_are_told_from_each_other_are_of_one_loss() -> None:
    heads, head, mine = in_float64("find")
    chosen = np.arange(4)
    by_gate = 4 * differences(heads, head, mine, chosen)
    torch.testing.assert_close(gate_slopes(heads, head, mine, chosen).sum(0), by_gate, atol=1e-8, rtol=1e-5)


def in_float64(name: str) -> tuple[AttentionHeads, Head, TaskRows]:
    model = tiny_model([name])
    head = model.heads[name].double()
    heads = AttentionHeads(model.backbone)
    model.backbone.model.double()
    return heads, head, TaskRows.of(model.backbone, type(head), head.task, labelled(name))


def labelled(name: str) -> Examples:
    """A few rows with a label each."""
    kind, inputs, labels = KINDS[name]
    given = rows(6)
    columns: list[list] = [[row[column] for row in given] for column in inputs]
    targets: list[Any] = [labels[at % len(labels)] if labels else at / 2 - 1 for at in range(len(given))]
    if kind == "tag":
        columns = [[text.split() for text in columns[0]]]
        targets = [[labels[k % len(labels)] for k in range(len(words))] for words in columns[0]]
    if kind == "multilabel":
        targets = [list(labels[: at % 3]) for at in range(len(given))]
    return Examples(tuple(columns), targets, [("a.jsonl", at) for at in range(len(given))])


@torch.no_grad()
def differences(heads: AttentionHeads, head: Head, mine: TaskRows, chosen: np.ndarray) -> torch.Tensor:
    """Of the mean loss of these rows, by a gate on each attention head [layers, heads]."""
    name, step = head.task.name, 1e-4

    def loss(gates: torch.Tensor) -> torch.Tensor:
        changes = scaled(heads.which(), gates)
        batch = MixedBatch({name: mine}, {name: chosen})
        return batch.losses(lambda ragged, read: heads.backbone.run(ragged, read, changes), {name: head})[
            name
        ]

    found = torch.zeros(heads.shape, dtype=torch.float64)
    for layer, number in heads.which():
        around = torch.ones(2, *heads.shape, dtype=torch.float64)
        around[:, layer, number] += torch.tensor([step, -step])
        found[layer, number] = (loss(around[0]) - loss(around[1])) / (2 * step)
    return found


def test_what_is_above_all_that_a_task_reads_does_nothing_to_it() -> None:
    model = tiny_model(["size"])  # which reads the layer below the last
    heads, suite = heads_of(model), Suite({"size": planted("size")}, "tiny", 0)
    given = asked_rows(model, suite, 8)
    found = importance(heads, model.heads, given).of_task("size")
    assert found.manifest["n"] == len(given["size"]) == 8
    assert (found.values[2] == 0).all()
    assert (found.values[:2] > 0).all()


def test_the_fewest_that_make_up_half() -> None:
    values = torch.tensor([[[4.0, 3.0], [2.0, torch.nan]], [[0.0, 0.0], [0.0, torch.nan]]])
    found = used(HeadScores(values, values, tasks=("a", "b")))
    assert found.tolist() == [[[True, True], [False, False]], [[False, False], [False, False]]]
    assert shares(HeadScores(values, values, tasks=("a", "b"))).values[1].nan_to_num().sum() == 0


def test_the_role_of_a_planted_head() -> None:
    model = plant("gpt2", ["previous"])
    heads = AttentionHeads(model.backbone)
    found = pattern_statistics(heads, heads.backbone.batches(prompts("induction", 4).rows))
    called = roles(found)
    layer, head = model.heads["previous"]
    assert called[layer][head] == "previous token"
    assert sum(each == "previous token" for some in called for each in some) == 1
    assert {"next token", "last token"} & set(found) == set()
    assert {"next token", "last token"} < set(pattern_statistics(AttentionHeads(tiny_backbone()), []))


def test_a_model_that_keeps_all_answers_as_before(tmp_path: Path) -> None:
    model = tiny_model(["topic", "names", "like"])
    heads = heads_of(model)
    scores = HeadScores(torch.rand(3, *heads.shape), torch.zeros(3, *heads.shape), tasks=tuple(model.heads))
    whole = smaller(model, heads, scores, 1.0)
    assert whole.predict(rows(), scores=True) == model.predict(rows(), scores=True)
    half = smaller(model, heads, scores, 0.5)
    assert sum(AttentionHeads(half.backbone).counts) == sum(heads.counts) // 2
    assert half.predict(rows(), scores=True) != model.predict(rows(), scores=True)
    half.save(tmp_path / "half")
    assert Model.load(tmp_path / "half").predict(rows()) == half.predict(rows())


@torch.no_grad()
def test_tasks_with_losses_of_any_size_count_alike() -> None:
    model = tiny_model(["topic", "size"])
    heads, values = heads_of(model), torch.zeros(2, 3, 4)
    values[0, 0, 0], values[0, 2, 2] = 1000.0, 10.0
    values[1, 1, 1] = 1.0
    scores = HeadScores(values, torch.zeros_like(values), tasks=("topic", "size"))
    made = smaller(model, heads, scores, 2 / 12)
    gone = [each for each in heads.which() if each not in {(0, 0), (1, 1)}]
    (batch,) = heads.backbone.batches(heads.backbone.tokens.texts([row["text"] for row in rows()]))
    alone = heads.backbone.run(batch, changes=scaled(gone, 0))["output"]
    torch.testing.assert_close(made.backbone.run(batch)["output"], alone)


def test_heads_that_are_not_everybodys_are_refused() -> None:
    model = tiny_model(["topic", "size"])
    model.branches["shared"] = Branch(tiny_backbone(1), None)
    model.branch_of["size"] = "shared"
    with pytest.raises(ConfigError, match="task 'size' reads the backbone through a branch of its own"):
        heads_of(model)
    model = tiny_model(["topic", "size"])
    model.edits["size"] = make("ia3", model.backbone, ["size"], {})
    with pytest.raises(ConfigError, match="task 'size' reads the backbone through an edit of its own"):
        heads_of(model)
    with pytest.raises(ConfigError, match="no task"):
        heads_of(tiny_model([]))
    other = Suite({"else": planted("topic")}, "tiny", 0)
    with pytest.raises(ConfigError, match="no dev or test rows of a task of this model"):
        asked_rows(tiny_model(["size"]), other, 5)
