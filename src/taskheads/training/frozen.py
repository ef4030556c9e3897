"""Fitting heads on a frozen backbone: each task chooses its reads and penalty on dev, and is solved for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.reads import Read
from taskheads.heads import EmbedHead, LinearHead, head_for
from taskheads.heads.embed import MatchSpread
from taskheads.model.evaluation import metric_value, truth_of
from taskheads.model.features import FrozenFeatures
from taskheads.tasks.task import TaskData
from taskheads.training.candidates import candidates_for
from taskheads.training.held_out import with_dev
from taskheads.training.trial import Answers, Fitted, Trial

# Every second one is tried on the first reads, on the next those beside the best so far.
RIDGE_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
SHRINKAGES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)


def fit_head(
    backbone: Backbone,
    data: TaskData,
    features: FrozenFeatures,
    reads: Sequence[tuple[Read, ...]] | None = None,
) -> Fitted:
    """The head that does best on dev, by the task's metric, among all candidates of reads and penalties.

    `reads` are the sets of reads to choose from, in place of all candidates.
    """
    started = time.perf_counter()
    data = with_dev(data)
    with torch.no_grad():
        kind = head_for(data.task)
        fit = _fit_map if issubclass(kind, EmbedHead) else _fit_linear
        chosen = reads or candidates_for(backbone, kind, data.task)
        fitted = fit(kind, backbone, data, features, chosen)  # type: ignore[arg-type]
    fitted.seconds = time.perf_counter() - started
    return fitted


def _fit_linear(
    kind: type[LinearHead],
    backbone: Backbone,
    data: TaskData,
    features: FrozenFeatures,
    candidates: Sequence[tuple[Read, ...]],
) -> Fitted:
    best: Fitted | None = None
    answers: Answers | None = None
    tried: list[dict[str, Any]] = []
    penalties: Sequence[float] = RIDGE_PENALTIES[1::2]
    for reads in candidates:
        head = kind(data.task, reads, backbone.width)
        answers = answers or Answers(data, head)
        trial = Trial(head, data, answers, features, tried)
        for fitted in [*trial.least_squares(penalties), *trial.plain()]:
            if best is None or fitted.utility > best.utility:
                best, best_trial = fitted, trial
            penalties = beside(best.penalty)
    assert best is not None
    best = max([best, *best_trial.least_squares(penalties)], key=lambda fitted: fitted.utility)
    if best_trial.head.curvature is not None:
        best = best_trial.maximum_likelihood(best)
    best_trial.finish(best)
    best.tried = tried
    return best


def beside(penalty: float) -> list[float]:
    """The penalties of least squares that are this one or next to it."""
    return [each for each in RIDGE_PENALTIES if 0.2 < each / penalty < 5]


def _fit_map(
    kind: type[EmbedHead],
    backbone: Backbone,
    data: TaskData,
    features: FrozenFeatures,
    candidates: Sequence[tuple[Read, ...]],
) -> Fitted:
    best: Fitted | None = None
    tried: list[dict[str, Any]] = []
    for reads in candidates:
        template = kind(data.task, reads, backbone.width)
        truth = truth_of(template, data.splits["dev"])
        train, _ = features.of(template, data.splits["train"])
        dev, _ = features.of(template, data.splits["dev"])
        spread = MatchSpread(train)
        for shrinkage in SHRINKAGES:
            head = kind(data.task, reads, backbone.width)
            head.put(spread, shrinkage)
            on_dev = metric_value(head, truth, head.decide(head(dev)))
            fitted = Fitted(head, "within-class covariance", shrinkage, on_dev)
            tried.append(fitted.summary)
            if best is None or fitted.utility > best.utility:
                best = fitted
    assert best is not None
    best.tried = tried
    return best
