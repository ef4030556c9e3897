"""One backbone and its heads: what answers all tasks in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.branching import Branch
from taskheads.backbone.cache import FeatureCache
from taskheads.backbone.precision import Precision
from taskheads.edits.edit import Edit
from taskheads.edits.edited import Edited
from taskheads.errors import ConfigError
from taskheads.heads import Head
from taskheads.model import saving
from taskheads.model.evaluation import COSINE, Score, by_cosine, compared, decided, score, without_model
from taskheads.model.features import FrozenFeatures, Progress, features_of
from taskheads.model.prediction import answer_stream, chosen
from taskheads.tasks.suite import Suite, load_suite
from taskheads.tasks.task import Examples, Task

FeaturesOf = Callable[[Backbone], FrozenFeatures]


class Model:
    """A backbone with a head for each task.

    Parameters
    ----------
    backbone: the shared transformer.
    heads: the heads by task name.
    card: the data card; what is told of each task in `card["tasks"][name]`.
    branches: backbones with some weights of their own, by name; trunks before what grew from them.
    branch_of: which branch a task's head reads, for the tasks whose head does not read the backbone itself.
    edits: what tasks change in the backbone, by task; several tasks may share one edit.

    Attributes
    ----------
    report: what `fit` found out, for `taskheads.report.page`; None for a model that was loaded.
    """

    report: dict[str, Any] | None = None

    def __init__(
        self,
        backbone: Backbone,
        heads: dict[str, Head],
        card: dict[str, Any],
        branches: dict[str, Branch] | None = None,
        branch_of: dict[str, str] | None = None,
        edits: dict[str, Edit] | None = None,
    ) -> None:
        self.backbone, self.heads, self.card = backbone, heads, card
        self.branches, self.branch_of = branches or {}, branch_of or {}
        self.edits = edits or {}
        self._edited: Edited | None = None

    @property
    def edited(self) -> Edited:
        """The backbone with what tasks change in it."""
        if self._edited is None or self._edited.trunk is not self.backbone:
            self._edited = Edited(self.backbone, self.edits)
        return self._edited

    @classmethod
    def load(cls, folder: str | Path, *, precision: Precision | None = None) -> Model:
        """The model that `save` wrote, its backbone lowered to `precision` if that is said (see
        `taskheads.backbone.precision.lowered`). Raises ModelError, in one sentence, when it is not whole."""
        return cls(*saving.load(folder, precision))

    def backbone_of(self, task: str) -> Backbone:
        """What the head of a task reads."""
        if task in self.branch_of:
            return self.branches[self.branch_of[task]].backbone
        return self.edited.of(task)

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder, in place of a model that is there; all or nothing."""
        parts = saving.Parts(self.backbone, self.heads, self.card, self.branches, self.branch_of, self.edits)
        saving.save(folder, parts)

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks by name."""
        return {name: head.task for name, head in self.heads.items()}

    def remove(self, name: str) -> None:
        """Forget a task; every other task's answers stay bit for bit what they were."""
        chosen(self.heads, [name])
        del self.heads[name]
        del self.card["tasks"][name]
        self.branch_of.pop(name, None)
        if name in self.edits:
            self.edits.pop(name).forget(name)
        needed = set(self.branch_of.values())
        for branch in reversed(list(self.branches)):
            if branch in needed:
                needed.add(self.branches[branch].trunk)
            else:
                del self.branches[branch]

    def predict(
        self, rows: Sequence[Any], *, tasks: Sequence[str] | None = None, scores: bool = False
    ) -> list[dict[str, Any]]:
        """Every task's answer for every row.

        Parameters
        ----------
        rows: texts, or dicts with the tasks' input columns. A text stands for the input of every task that
            has one; for `tag` it is split at blanks, for `embed` it is a query.
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
        ConfigError: an unknown task, or a model without tasks. DataError: a value that cannot be read, or no
        row of all has what any task needs.
        """
        return list(self.predict_stream(rows, tasks=tasks, scores=scores))

    def predict_stream(
        self, rows: Iterable[Any], *, tasks: Sequence[str] | None = None, scores: bool = False
    ) -> Iterator[dict[str, Any]]:
        """As `predict`, row by row from an iterable of any length, in constant memory.

        Nothing comes before the first row that has an answer to any task.
        """
        return answer_stream(chosen(self.heads, tasks), self.backbone_of, rows, scores=scores)

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
        rows = self.labelled(source, split=split)
        return self.scores(rows, self.features(rows, cache, progress))

    def labelled(self, source: Any = None, *, split: str = "test") -> dict[str, Examples]:
        """The labelled rows of a split, by task: what `evaluate` judges on. Raises as it does."""
        tasks = self.suite(source).tasks
        rows = {name: data.splits[split] for name, data in tasks.items() if len(data.splits[split])}
        if not rows:
            names = ", ".join(self.heads)
            raise ConfigError(f"that data has no {split} rows of a task of this model ({names})")
        return rows

    def suite(self, source: Any = None) -> Suite:
        """The data of the model's tasks: `source` as `fit` takes it, by default what the model was fitted on,
        read again. Raises as `evaluate` does."""
        if source is None and not self.card["sources"]:
            raise ConfigError("the model does not know where its data was: say which data to evaluate it on")
        seed = self.card["seed"]
        if isinstance(source, Suite):
            suites = [source]
        else:
            sources = [source] if source is not None else self.card["sources"]
            suites = [load_suite(each, seed=seed) for each in sources]
        tasks = {name: data for suite in suites for name, data in suite.tasks.items() if name in self.heads}
        return Suite(tasks, self.backbone.name, seed)

    def scores(self, rows: dict[str, Examples], features: FeaturesOf) -> list[Score]:
        """The score of each task on labelled rows, from the features of each backbone that its tasks read."""
        found = []
        for name, examples in rows.items():
            head = self.heads[name]
            _, made = decided(head, examples, features(self.backbone_of(name)))
            beside = without_model(head.task, self.card["tasks"][name]["commonest"], examples)
            if beside is None:
                plain = features(self.backbone)
                first, second = (plain.read(each, COSINE, examples) for each in compared(head.task))
                beside = by_cosine(head.task, first, second)
            found.append(score(head, examples, made, beside, self.card["seed"]))
        return found

    def features(
        self, rows: dict[str, Examples], cache: FeatureCache | None = None, progress: Progress | None = None
    ) -> FeaturesOf:
        """What `scores` needs of these rows: a function from a backbone to its features."""
        made: dict[int, FrozenFeatures] = {}

        def of(backbone: Backbone) -> FrozenFeatures:
            if id(backbone) not in made:
                mine = {name: self.heads[name] for name in rows if self.backbone_of(name) is backbone}
                plain = [
                    (request, rows[name], COSINE)
                    for name in (rows if backbone is self.backbone else ())
                    for request in compared(self.heads[name].task)
                ]
                made[id(backbone)] = features_of(
                    backbone, mine, rows, also=plain, cache=cache, progress=progress
                )
            return made[id(backbone)]

        return of
