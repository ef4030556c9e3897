"""The baseline of `quality.py`: scikit-learn on embeddings of the same backbone, as a careful user does it.

Texts are embedded by sentence-transformers' `encode` at its defaults, words by the plain Hugging Face model
(last layer, first subword). Whatever can be chosen (the penalty on a grid, the threshold, one model or the
other) is chosen on dev by the task's own metric, as the product chooses.

Solvers: `lbfgs` for logistic regressions, the penalties from strong to weak, each started from the solution
before it; it converges where `saga` needs its hundreds of epochs for weak penalties. Ridge is exact.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from taskheads.heads import head_for
from taskheads.tasks.labels import encode
from taskheads.tasks.metrics import Metric, metric_named
from taskheads.tasks.task import Examples, Task, TaskData

# Embeddings are unit vectors, token vectors some six times as long: the grids cover both sides of what dev
# chooses on every data set.
SENTENCE_CS = tuple(10.0**k for k in np.arange(-1, 3.6, 0.5))
TOKEN_CS = tuple(10.0**k for k in np.arange(-2.5, 1.6, 0.5))
ALPHAS = tuple(10.0**k for k in np.arange(-3, 3.1, 0.5))
THRESHOLDS = np.arange(0.05, 0.96, 0.025)
MAX_STEPS = 500
SPLITS = ("train", "dev", "test")

Arrays = dict[str, Any]


@dataclass
class Candidate:
    """One fitted baseline: what it is, and what it says of dev and of test."""

    name: str
    dev: Any
    test: Any


@dataclass
class Probed:
    """The candidate that was best on dev: its answers for test, in the form that the metric takes."""

    name: str
    dev: float
    test: Any
    candidates: int


class Probe:
    """Baselines on one backbone.

    Parameters
    ----------
    folder: the sentence-transformers model.
    """

    def __init__(self, folder: str) -> None:
        from sentence_transformers import SentenceTransformer
        from transformers import AutoModel, AutoTokenizer

        self.sentences = SentenceTransformer(folder, device="cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def of(self, data: TaskData) -> Probed:
        """The best of the task's baselines: fitted on train, chosen on dev, its answers for test."""
        metric = judge(data.task)
        best: tuple[float, Candidate] | None = None
        count = 0
        truth = truths(data.task, data.splits["dev"])
        for candidate in self._candidates(data, metric):
            value = metric.utility(metric.compute(truth, candidate.dev))
            count += 1
            if best is None or value > best[0]:
                best = value, candidate
        assert best is not None
        return Probed(best[1].name, best[0], best[1].test, count)

    def _candidates(self, data: TaskData, metric: Metric) -> Iterator[Candidate]:
        task = data.task
        if task.kind == "tag":
            yield from self._tags(data)
            return
        sides = [
            {split: self.embed(data.splits[split].inputs[side]) for split in SPLITS}
            for side in range(len(task.inputs))
        ]
        y = {split: encode(task, data.splits[split]) for split in SPLITS}
        if len(sides) == 2:
            yield from _similarities(*sides, y)
        elif task.kind == "multilabel":
            yield from _label_sets(sides[0], y, metric)
        else:
            yield from _classes(sides[0], y, SENTENCE_CS)
            if task.kind == "ordinal":
                yield from _levels(sides[0], y, len(task.labels))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings [n, d] by sentence-transformers at its defaults."""
        return self.sentences.encode(list(texts), show_progress_bar=False)

    def _tags(self, data: TaskData) -> Iterator[Candidate]:
        """A linear probe: multinomial logistic regression on each word's vector."""
        x = {split: self.words(data.splits[split].inputs[0]) for split in SPLITS}
        y = {split: np.concatenate(encode(data.task, data.splits[split])) for split in SPLITS}
        for candidate in _classes(x, y, TOKEN_CS):
            yield Candidate(
                candidate.name,
                _rows(data.task, data.splits["dev"], candidate.dev),
                _rows(data.task, data.splits["test"], candidate.test),
            )

    @torch.inference_mode()
    def words(self, rows: Sequence[Sequence[str]]) -> np.ndarray:
        """The last layer's vector at the first subword of each word [words, d]; zeros where there is none."""
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for start in range(0, len(order), 32):
            some = order[start : start + 32]
            batch = self.tokenizer(
                [list(rows[row]) for row in some],
                is_split_into_words=True,
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            states = self.model(**batch).last_hidden_state.numpy()
            for at, row in enumerate(some):
                vectors = np.zeros((len(rows[row]), states.shape[2]), np.float32)
                of_token = batch.word_ids(at)
                for token in range(len(of_token) - 1, -1, -1):
                    if of_token[token] is not None:
                        vectors[of_token[token]] = states[at, token]
                found[row] = vectors
        return np.concatenate(found)


def judge(task: Task) -> Metric:
    """The task's metric."""
    return metric_named(task.metric, head_for(task).kind)


def truths(task: Task, examples: Examples) -> Any:
    """The truth as the task's metric takes it."""
    return examples.targets if task.kind == "tag" else encode(task, examples)


def _logistic(x: np.ndarray, y: np.ndarray, penalties: Sequence[float]) -> Iterator[LogisticRegression]:
    """Logistic regressions from the strongest penalty to the weakest, each started at the one before."""
    model = LogisticRegression(max_iter=MAX_STEPS, warm_start=True)
    for penalty in penalties:
        model.C = penalty
        with warnings.catch_warnings():
            # At the weakest penalties the steps may run out; many classes for few rows is how tests are.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", message="The number of unique classes")
            yield model.fit(x, y)


def _classes(x: Arrays, y: Arrays, penalties: Sequence[float]) -> Iterator[Candidate]:
    for model in _logistic(x["train"], y["train"], penalties):
        yield Candidate(f"logistic C={model.C:.3g}", model.predict(x["dev"]), model.predict(x["test"]))


def _levels(x: Arrays, y: Arrays, levels: int) -> Iterator[Candidate]:
    """Ridge on the level's number, rounded."""
    for name, dev, test in _ridges(x, y):
        yield Candidate(name, *(np.clip(np.rint(each), 0, levels - 1).astype(int) for each in (dev, test)))


def _label_sets(x: Arrays, y: Arrays, metric: Metric) -> Iterator[Candidate]:
    """One-vs-rest logistic regressions with one penalty, and one threshold tuned on dev for all labels."""
    shape = {split: (len(SENTENCE_CS), *y[split].shape) for split in ("dev", "test")}
    probability = {split: np.zeros(shape[split]) for split in shape}
    for label in range(y["train"].shape[1]):
        positive = y["train"][:, label]
        for split in shape:
            probability[split][:, :, label] = float(positive.all())
        if positive.any() and not positive.all():
            for number, model in enumerate(_logistic(x["train"], positive, SENTENCE_CS)):
                for split in shape:
                    probability[split][number, :, label] = model.predict_proba(x[split])[:, 1]
    for number, penalty in enumerate(SENTENCE_CS):
        dev, test = probability["dev"][number], probability["test"][number]
        utility = [metric.utility(metric.compute(y["dev"], dev >= at)) for at in THRESHOLDS]
        at = THRESHOLDS[int(np.argmax(utility))]
        yield Candidate(f"logistic C={penalty:.3g}, threshold {at:.3g}", dev >= at, test >= at)


def _similarities(first: Arrays, second: Arrays, y: Arrays) -> Iterator[Candidate]:
    """The plain cosine; ridge on [|u - v|, u * v], as it is and standardised."""
    yield Candidate("cosine", *((first[split] * second[split]).sum(1) for split in ("dev", "test")))
    pairs = {
        split: np.hstack([np.abs(first[split] - second[split]), first[split] * second[split]])
        for split in SPLITS
    }
    scaler = StandardScaler().fit(pairs["train"])
    scaled = {split: scaler.transform(pairs[split]) for split in SPLITS}
    for what, x, factor in (("", pairs, 1.0), ("standardised ", scaled, 100.0)):
        for name, dev, test in _ridges(x, y, factor):
            yield Candidate(what + name, dev, test)


def _ridges(x: Arrays, y: Arrays, factor: float = 1.0) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for alpha in ALPHAS:
        model = Ridge(alpha=factor * alpha).fit(x["train"], y["train"])
        yield f"ridge alpha={model.alpha:.3g}", model.predict(x["dev"]), model.predict(x["test"])


def _rows(task: Task, examples: Examples, predicted: np.ndarray) -> list[list[Any]]:
    """Tags of words end to end, as rows."""
    names = [task.labels[number] for number in predicted]
    ends = np.cumsum([len(words) for words in examples.inputs[0]])
    return [names[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
