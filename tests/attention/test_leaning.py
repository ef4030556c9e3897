"""What an answer leaned on: the slope of what `predict` says of a row, by a gate on each attention head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.leaning import leaning, scale, strength
from taskheads.attention.planted import plant, prompts
from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited
from taskheads.heads import EmbedHead, Head
from taskheads.tasks.task import Examples
from taskheads.training.joint.batch import MixedBatch
from taskheads.training.joint.rows import TaskRows
from tests.attention.test_usage import asked
from tests.small_models import KINDS, tiny_backbone, tiny_head

TEXTS = ("the quick brown fox jumps over lazy dogs", "unbelievably often words don't mind")
STEP = 1e-4


def row_of(name: str) -> Examples:
    kind, inputs, _ = KINDS[name]
    columns = tuple([text.split() if kind == "tag" else text] for text in TEXTS[: len(inputs)])
    return Examples(columns, [None], [("a.jsonl", 1)])


@torch.no_grad()
def said(
    heads: AttentionHeads, backbone: Backbone, head: Head, rows: TaskRows, gates: torch.Tensor
) -> np.ndarray:
    """The strength of the answer, from the decision that `predict` answers with; scores by `MixedBatch`."""
    changes, name = scaled(heads.which(), gates), head.task.name
    batch = MixedBatch({name: rows}, {name: np.arange(1)})
    scores = batch.scores(lambda ragged, read: backbone.run(ragged, read, changes), {name: head})[name]
    if isinstance(head, EmbedHead):
        return (scores[0] * scores[1]).sum().numpy()
    decided = head.decide(scores, batch.parts[name].lengths)
    if head.task.kind == "tag":
        tags = decided.predicted[0]
        shares = scores.softmax(1)[range(len(tags)), [head.task.labels.index(tag) for tag in tags]]
        inside = [tag != "O" for tag in tags]
        return log_odds(shares.numpy())[inside if any(inside) else ...].mean()
    if scale(head) == "value":
        return decided.predicted[0]
    if head.task.kind == "multilabel":
        odds = log_odds(decided.scores[0])
        return odds[decided.predicted[0]].sum() if decided.predicted[0].any() else -odds.max()
    return log_odds(decided.scores[0][decided.predicted[0]])


def log_odds(share: np.ndarray) -> np.ndarray:
    return np.log(share) - np.log1p(-share)


def check(heads: AttentionHeads, backbone: Backbone, head: Head, row: Examples, rows: TaskRows) -> None:
    """In float64."""
    strength, slopes = leaning(heads, backbone, head, row)
    ones = torch.ones(heads.shape, dtype=torch.float64)
    np.testing.assert_allclose(strength, said(heads, backbone, head, rows, ones), rtol=1e-9)
    for layer, number in heads.which():
        ends = []
        for sign in (1, -1):
            gates = ones.clone()
            gates[layer, number] += sign * STEP
            ends.append(said(heads, backbone, head, rows, gates))
        difference = (ends[0] - ends[1]) / (2 * STEP)
        np.testing.assert_allclose(slopes[layer, number], difference, atol=1e-7, rtol=1e-4)
    assert slopes.abs().max() > 1e-6


@pytest.mark.parametrize(
    "name", ["topic", "labels", "size", "stars", "names", "same", "joint", "like", "find"]
)
@pytest.mark.parametrize("edit", [None, "lora", "prefix"])
def test_it_is_the_finite_difference_of_what_the_answer_says(name: str, edit: str | None) -> None:
    trunk = tiny_backbone()
    head = tiny_head(name, trunk).double()
    for parameter in head.parameters():  # so that no probability is 1
        parameter.data.mul_(0.02)
    if name == "stars":  # as thresholds are when they are fitted
        head.thresholds.data = head.thresholds.data.sort().values
    heads = AttentionHeads(trunk)
    trunk.model.double()
    row = row_of(name)
    rows = TaskRows.of(trunk, type(head), head.task, Examples(row.inputs, labels_of(name), row.sources))
    backbone: Backbone = trunk
    if edit:
        drawn = made(edit, trunk, [name]).double()
        for parameter in drawn.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
        backbone = Edited(trunk, {name: drawn}).of(name)
        assert not torch.equal(leaning(heads, backbone, head, row)[0], leaning(heads, trunk, head, row)[0])
    check(heads, backbone, head, row, rows)


def labels_of(name: str) -> list:
    """Any that there is, where a label must be."""
    kind, _, labels = KINDS[name]
    if kind == "tag":
        return [[labels[0]] * len(TEXTS[0].split())]
    return [list(labels[:1]) if kind == "multilabel" else labels[0] if labels else 0.0]


@pytest.mark.parametrize("given", [0.0, 2.0])
def test_labels_that_are_given_and_that_none_is_given(given: float) -> None:
    """Of no label, that none is; of several, that all are."""
    backbone = tiny_backbone()
    head, heads = tiny_head("labels", backbone), AttentionHeads(backbone)
    head.thresholds.fill_(1 - given)
    answer, _ = leaning(heads, backbone, head, row_of("labels"))
    strengths = []
    for label in (0, 1):
        head.thresholds.copy_(torch.tensor([2.0, 2.0]))
        head.thresholds[label] = -1.0
        strengths.append(float(leaning(heads, backbone, head, row_of("labels"))[0]))
    expected = sum(strengths) if given else -max(strengths)
    assert float(answer) == pytest.approx(expected, rel=1e-5)


def test_tags_count_where_there_is_something() -> None:
    """Log-odds of 2 and 4 for two words in spans, of 10 for one that is in none."""
    head = tiny_head("names", tiny_backbone())
    scores = torch.full((3, 3), -torch.inf)  # of B-N, I-N, O
    for word, (tag, other, odds) in enumerate([(0, 2, 2.0), (1, 2, 4.0), (2, 0, 10.0)]):
        scores[word, tag], scores[word, other] = odds, 0.0
    head.transitions.zero_()
    assert strength(head, scores, [3]) == 3
    assert strength(head, scores[2:], [1]) == 10


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
def test_a_planted_head_is_what_the_answer_leans_on(architecture: str) -> None:
    """And what it would lose without it is of the sign that is said."""
    model = plant(architecture, ["memory"])
    heads = AttentionHeads(model.backbone)
    head, rows = asked("memory", model.head)
    model.backbone.tokens = _Fixed(prompts("memory", 1).rows[0])
    strength, slopes = leaning(heads, model.backbone, head, row_of("topic"))
    layer, number = model.heads["memory"]
    assert divmod(int(slopes.argmax()), slopes.shape[1]) == (layer, number)
    gates = torch.ones(heads.shape)
    gates[layer, number] = 0.9
    assert said(heads, model.backbone, head, rows, gates) < float(strength)


class _Fixed:
    """A tokenizer of one row."""

    def __init__(self, row) -> None:
        self.row = row

    def texts(self, texts):
        return [self.row]


def test_what_is_above_all_that_a_task_reads_has_nothing_to_do_with_it() -> None:
    backbone = tiny_backbone()  # the task reads the layer below the last
    _, slopes = leaning(AttentionHeads(backbone), backbone, tiny_head("size", backbone), row_of("size"))
    assert (slopes[2] == 0).all()
    assert (slopes[:2] != 0).all()
