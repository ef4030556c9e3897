"""The features that a suite's heads may choose from, on one backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cache import FeatureCache
from taskheads.backbone.reads import Read
from taskheads.heads import head_for
from taskheads.heads.head import Form
from taskheads.model.evaluation import COSINE, compared
from taskheads.model.features import FrozenFeatures, Progress
from taskheads.tasks.task import TaskData
from taskheads.training.candidates import candidates

Reads = Callable[[Backbone, Form], Sequence[Read]]


def suite_features(
    backbone: Backbone,
    tasks: Iterable[TaskData],
    reads: Reads,
    *,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> FrozenFeatures:
    """These reads of all rows of these tasks, and what the plain cosine needs; one pass of each text."""
    needs = [
        (request, examples)
        for data in tasks
        for examples in data.splits.values()
        for request in [*head_for(data.task).requests_of(data.task), *compared(data.task)]
    ]
    plain = {"text": {COSINE}}
    return FrozenFeatures(
        backbone,
        needs,
        lambda form: sorted({*reads(backbone, form), *plain.get(form, ())}),
        cache=cache,
        progress=progress,
    )


def every_candidate(backbone: Backbone, form: Form) -> list[Read]:
    """All that a head may choose from."""
    return [read for chosen in candidates(backbone, form) for read in chosen]


def single(backbone: Backbone, form: Form) -> list[Read]:
    """The candidates that are one read of the backbone's output."""
    return [chosen[0] for chosen in candidates(backbone, form) if len(chosen) == 1]
