"""One backbone and its heads: what answers all tasks in one pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cache import FeatureCache
from taskheads.backbone.reads import Read
from taskheads.errors import ConfigError
from taskheads.heads import Head
from taskheads.model import saving
from taskheads.model.evaluation import COSINE, Score, by_cosine, compared, score, without_model
from taskheads.model.features import FrozenFeatures, Progress
from taskheads.model.prediction import answer_rows
from taskheads.tasks.suggest import did_you_mean
from taskheads.tasks.suite import Suite, load_suite
from taskheads.tasks.task import Examples, Task

# Rows answered together. Part of the result's last bits, so a constant and no option.
_CHUNK = 2048


class Model:
    """A backbone with a head for each task.

    Parameters
    ----------
    backbone: the shared transformer.
    heads: the heads by task name.
    card: the data card; what is told of each task in `card["tasks"][name]`.
    """

    def __init__(self, backbone: Backbone, heads: dict[str, Head], card: dict[str, Any]) -> None:
        self.backbone, self.heads, self.card = backbone, heads, card

    @classmethod
    def load(cls, folder: str | Path) -> Model:
        """The model that `save` wrote. Raises ModelError, in one sentence, when it is not whole."""
        return cls(*saving.load(folder))

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder, in place of a model that is there; all or nothing."""
        saving.save(folder, self.backbone, self.heads, self.card)

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name."""
        return {name: head.task for name, head in self.heads.items()}

    def remove(self, name: str) -> None:
        """Forget a task; every other task's answers stay bit for bit what they were."""
        self._known([name])
        del self.heads[name]
        del self.card["tasks"][name]

    def predict(
        self, rows: Sequence[Any], *, tasks: Sequence[str] | None = None, scores: bool = False
    ) -> list[dict[str, Any]]:
        """Every task's answer for every row.

        Parameters
        ----------
        rows: texts, or dicts with the tasks' input columns. A text stands for the input of every task that
            has one; for `tag` it is split at blanks.
        tasks: names of the tasks to answer; all by default.
        scores: whether answers carry the probability of every label.

        Returns
        -------
        For each row {task: answer}, None where the row has not all of the task's columns. Answers:
        classify and labelled pairs {"label", "score"}; multilabel {"labels"}; regress and similarity
        {"value"}; ordinal {"value", "score"}; tag {"tags"} and, for BIO, {"spans"}; embed {"embedding",
        "similarity"} for the query and its likeness to the document.

        Raises
        ------
        ConfigError: an unknown task. DataError: a value that cannot be read, or no row for any task.
        """
        return list(self.predict_stream(rows, tasks=tasks, scores=scores))

    def predict_stream(
        self, rows: Iterable[Any], *, tasks: Sequence[str] | None = None, scores: bool = False
    ) -> Iterator[dict[str, Any]]:
        """As `predict`, row by row from an iterable of any length, in constant memory."""
        chosen = self._known(self.heads if tasks is None else tasks)
        rows = iter(rows)
        start = 0
        while chunk := list(itertools.islice(rows, _CHUNK)):
            heads = {name: self.heads[name] for name in chosen}
            yield from answer_rows(self.backbone, heads, chunk, first_row=start + 1, scores=scores)
            start += len(chunk)

    def evaluate(
        self,
        source: Any = None,
        *,
        split: str = "test",
        cache: FeatureCache | None = None,
        progress: Progress | None = None,
    ) -> list[Score]:
        """The score of every task on a split.

        `source` is what `fit` takes; by default what the model was fitted on, read again from where it was.
        Tasks are matched by name, and keep the label space that they were fitted with.

        Raises ConfigError or DataError where that data has none of the model's tasks, or cannot be read.
        """
        if source is None and not self.card["sources"]:
            raise ConfigError("the model does not know where its data was: say which data to evaluate it on")
        if isinstance(source, Suite):
            suites = [source]
        else:
            sources = [source] if source is not None else self.card["sources"]
            suites = [load_suite(each, seed=self.card["seed"]) for each in sources]
        rows = {
            name: data.splits[split]
            for suite in suites
            for name, data in suite.tasks.items()
            if name in self.heads and len(data.splits[split])
        }
        if not rows:
            names = ", ".join(self.heads)
            raise ConfigError(f"that data has no {split} rows of a task of this model ({names})")
        return self.scores(rows, self._features(rows, cache, progress))

    def scores(self, rows: dict[str, Examples], features: FrozenFeatures) -> list[Score]:
        """The score of each task on labelled rows whose features are at hand."""
        found = []
        for name, examples in rows.items():
            head = self.heads[name]
            gathered, lengths = features.of(head, examples)
            with torch.inference_mode():
                made = head.decide(head(gathered), lengths)
            beside = without_model(head.task, self.card["tasks"][name]["commonest"], examples)
            if beside is None:
                first, second = (features.read(each, COSINE, examples) for each in compared(head.task))
                beside = by_cosine(head.task, first, second)
            found.append(score(head, examples, made, beside, self.card["seed"]))
        return found

    def _features(
        self, rows: dict[str, Examples], cache: FeatureCache | None, progress: Progress | None
    ) -> FrozenFeatures:
        needs = [
            (request, examples)
            for name, examples in rows.items()
            for request in [*self.heads[name].requests, *compared(self.heads[name].task)]
        ]
        reads: dict[str, set[Read]] = {"text": {COSINE}, "pair": set(), "words": set()}
        for name in rows:
            for request in self.heads[name].requests:
                reads[request.form].update(self.heads[name].reads)
        return FrozenFeatures(
            self.backbone, needs, lambda form: sorted(reads[form]), cache=cache, progress=progress
        )

    def _known(self, names: Iterable[str]) -> list[str]:
        names = list(names)
        for name in names:
            if name not in self.heads:
                near = did_you_mean(name, self.heads)
                known = ", ".join(self.heads) or "none"
                raise ConfigError(f"the model has no task {name!r}{near}; its tasks are {known}")
        return names
