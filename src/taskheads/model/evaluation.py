"""How good a head is: its metric on some rows, with an interval, beside an answer that needs no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from taskheads.backbone.reads import Read
from taskheads.heads import EmbedHead, Head, Request, TagHead
from taskheads.heads.embed import retrieval
from taskheads.heads.head import Decisions
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.labels import encode
from taskheads.tasks.metrics import interval, metrics_of, paired_difference
from taskheads.tasks.metrics.bootstrap import Interval
from taskheads.tasks.task import Examples, Task

# The vector of a text whose plain cosine is the answer that needs no training.
COSINE = Read("output", "mean")


@dataclass
class Score:
    """A task's score on `rows` rows.

    value, low, high: the task's metric and its 95 % bootstrap interval over rows.
    baseline: the same metric for the answer that needs no training: the commonest label, the median level,
        the mean, or the plain cosine for texts that are compared. None where the metric has no value for it.
    others: the other metrics that the field expects of this kind, without intervals.
    """

    task: str
    kind: str
    metric: str
    value: float
    low: float
    high: float
    rows: int
    baseline: float | None = None
    others: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def score(
    head: Head, examples: Examples, made: Decisions, baseline: Decisions | None, seed: int = 0
) -> Score:
    """Judge decisions on labelled rows. `baseline` are the decisions to stand beside them, or None."""
    task, metric = head.task, head.metric
    truth = truth_of(head, examples)
    found = judged(head, truth, made)
    value = interval(metric, *found, seed=seed)
    beside = None if baseline is None else metric.compute(*judged(head, truth, baseline))
    others = {m.name: m.compute(*found) for m in metrics_of(head.kind) if m.name != metric.name}
    return Score(
        task.name, task.kind, metric.name, value.value, value.low, value.high, len(examples), beside, others
    )


def decided(head: Head, examples: Examples, features: FrozenFeatures) -> tuple[torch.Tensor, Decisions]:
    """The scores and the decisions of a head on rows whose features are at hand."""
    gathered, lengths = features.of(head, examples)
    with torch.inference_mode():
        scores = head(gathered)
        return scores, head.decide(scores, lengths)


def truth_of(head: Head, examples: Examples) -> Any:
    """What decisions about these rows are judged by."""
    if isinstance(head, EmbedHead):
        return examples.inputs
    return examples.targets if isinstance(head, TagHead) else encode(head.task, examples)


def judged(head: Head, truth: Any, made: Decisions) -> tuple[Any, Any, Any]:
    """(truth, predicted, scores) as the metrics take them, from `truth_of`."""
    if isinstance(head, EmbedHead):
        relevant, ranks = retrieval(made, *truth)
        return relevant, None, ranks
    return truth, made.predicted, made.scores


def metric_value(head: Head, truth: Any, made: Decisions) -> float:
    """The task's metric, on rows with this `truth_of`."""
    return head.metric.compute(*judged(head, truth, made))


def paired(head: Head, examples: Examples, a: Decisions, b: Decisions, seed: int = 0) -> Interval:
    """By how much decisions `a` about labelled rows are better than `b`; see `paired_difference`."""
    truth = truth_of(head, examples)
    relevant, mine, scores = judged(head, truth, a)
    _, others, their_scores = judged(head, truth, b)
    return paired_difference(
        head.metric, relevant, mine, others, scores_a=scores, scores_b=their_scores, seed=seed
    )


def commonest(task: Task, targets: Sequence[Any]) -> Any:
    """The answer that needs no input: commonest label or tag, labels that most rows have, median level,
    mean value; None for `embed`."""
    if task.kind == "embed":
        return None
    if not task.labels:
        return float(np.mean(targets)) if targets else 0.0
    if task.kind == "ordinal":
        return sorted(targets)[len(targets) // 2]
    if task.kind == "tag":
        return Counter(tag for tags in targets for tag in tags).most_common(1)[0][0]
    if task.kind == "multilabel":
        counts = Counter(label for labels in targets for label in labels)
        usual = [label for label, count in counts.items() if 2 * count >= len(targets)]
        return usual or [label for label, _ in counts.most_common(1)]
    return Counter(targets).most_common(1)[0][0]


def without_model(task: Task, answer: Any, examples: Examples) -> Decisions | None:
    """`commonest`'s answer given to every row; None for texts that are compared, which have `by_cosine`."""
    n = len(examples)
    if compared(task):
        return None
    if task.kind == "tag":
        return Decisions([[answer] * len(words) for words in examples.inputs[0]])
    if task.kind == "regress":
        return Decisions(np.full(n, answer))
    scores = np.zeros((n, len(task.labels)))
    if task.kind == "multilabel":
        scores[:, [task.labels.index(label) for label in answer]] = 1.0
        return Decisions(scores > 0.5, scores)
    scores[:, task.labels.index(answer)] = 1.0
    return Decisions(np.full(n, task.labels.index(answer)), scores)


def compared(task: Task) -> list[Request]:
    """The two passes whose `COSINE` vectors `by_cosine` compares; none for tasks that it does not serve."""
    if task.kind == "embed" or (task.kind == "pair" and not task.labels):
        return [Request((0,), "text"), Request((1,), "text")]
    return []


def by_cosine(task: Task, first: torch.Tensor, second: torch.Tensor) -> Decisions:
    """Texts compared by the plain cosine of their vectors [n, width]: what needs no training."""
    first, second = normalize(first, dim=-1), normalize(second, dim=-1)
    if task.kind == "embed":
        return Decisions(first.numpy(), second.numpy())
    return Decisions((first * second).sum(-1).double().numpy())
