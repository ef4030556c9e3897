"""How good the heads are: the product against scikit-learn on embeddings of the same backbone.

Both sides see the same train, dev and test rows and choose on dev by the task's metric: the product (`fit`,
as a user calls it) its reads, penalty and thresholds; the baseline (`probes.py`) its penalty on a grid of
nine values or more. Shown for each task: both scores on test with the product's 95 % bootstrap interval,
their difference with its paired bootstrap interval, and the seconds of both sides, the embedding of the
texts included. The verdict is `win` or `loss` where that interval does not hold 0, else `tie`.

    python benchmarks/quality.py --out quality.json
    python benchmarks/quality.py --tasks trec_coarse sst5_ordinal --limit 500
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from report import data_folder, facts, keep, model_folder, parser, show, show_facts, timed, use_threads

# The task as its user would declare it; `data` is a folder below the data folder, or its files by split.
TASKS: dict[str, dict[str, Any]] = {
    "clinc150": {"data": "clinc150", "input": "text", "label": "intent", "kind": "classify"},
    "trec_coarse": {"data": "trec", "input": "text", "label": "coarse", "kind": "classify"},
    "trec_fine": {"data": "trec", "input": "text", "label": "fine", "kind": "classify"},
    "sst5_ordinal": {
        "data": "sst5",
        "input": "text",
        "label": "sentiment",
        "kind": "ordinal",
        "metric": "quadratic_kappa",
    },
    "sst5_classify": {
        "data": "sst5",
        "input": "text",
        "label": "sentiment",
        "kind": "classify",
        "metric": "accuracy",
    },
    "movie_review": {"data": "movie_review", "input": "text", "label": "label", "kind": "classify"},
    "subjectivity": {"data": "subjectivity", "input": "text", "label": "label", "kind": "classify"},
    "stsbenchmark": {
        "data": "stsbenchmark",
        "input": ["text_a", "text_b"],
        "label": "similarity",
        "kind": "pair",
    },
    "wnut17": {"data": "wnut17", "input": "tokens", "label": "entities", "kind": "tag"},
    "atis_slots": {"data": "atis", "input": "tokens", "label": "slots", "kind": "tag", "unseen": "keep"},
    "atis_intent": {
        "data": "atis",
        "input": "tokens",
        "label": "intent",
        "kind": "classify",
        "unseen": "keep",
    },
    "nlupp_banking": {"data": "nlupp_banking", "input": "text", "label": "intents", "kind": "multilabel"},
}


@dataclass
class Result:
    """One task: scores and intervals as fractions, seconds of the whole side, and what each side chose."""

    task: str
    metric: str
    rows: dict[str, int]
    product: float
    low: float
    high: float
    baseline: float
    difference: float
    difference_low: float
    difference_high: float
    verdict: str
    product_seconds: dict[str, float]
    baseline_seconds: dict[str, float]
    product_choice: dict[str, Any]
    baseline_choice: dict[str, Any]

    def line(self) -> list[str]:
        """The row of the table: scores in points."""
        points = [f"{100 * each:.1f}" for each in (self.product, self.low, self.high, self.baseline)]
        apart = [
            f"{100 * each:+.1f}" for each in (self.difference, self.difference_low, self.difference_high)
        ]
        seconds = (self.product_seconds["wall"], self.baseline_seconds["wall"])
        return [
            self.task,
            self.metric,
            f"{points[0]} [{points[1]}, {points[2]}]",
            points[3],
            f"{apart[0]} [{apart[1]}, {apart[2]}]",
            self.verdict,
            *(f"{each:.1f}" for each in seconds),
        ]


COLUMNS = ("task", "metric", "product", "baseline", "difference", "verdict", "product s", "baseline s")


def read(name: str, limit: int | None) -> Any:
    """The task's suite, each split cut to `limit` evenly spaced rows."""
    import taskheads as th

    said = TASKS[name]
    folder = data_folder() / said["data"]
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "dev", "test")}
    present = {split: path for split, path in files.items() if (folder / f"{split}.jsonl").exists()}
    suite = th.load_suite({"tasks": {name: said | {"data": present}}})
    if limit is not None:
        data = suite.tasks[name]
        splits = {split: examples.thinned(limit) for split, examples in data.splits.items()}
        suite.tasks[name] = replace(data, splits=splits)
    return suite


def answers(model: Any, data: Any) -> Any:
    """What the model tells its user of the test rows, as the task's metric takes it."""
    from probes import truths

    task, test = data.task, data.splits["test"]
    rows = [dict(zip(task.inputs, values, strict=True)) for values in zip(*test.inputs, strict=True)]
    told = [answer[task.name] for answer in model.predict(rows)]
    field = {"classify": "label", "ordinal": "value", "pair": "value", "tag": "tags", "multilabel": "labels"}
    return truths(task, replace(test, targets=[answer[field[task.kind]] for answer in told]))


def compare(name: str, backbone: Any, probe: Any, limit: int | None) -> Result:
    """Fit and judge both sides on one task."""
    import taskheads as th
    from probes import judge, truths
    from taskheads.tasks.metrics import interval, paired_difference

    suite = read(name, limit)
    data = suite.tasks[name]
    model, product_seconds = timed(lambda: th.fit(suite, tune="frozen", backbone=backbone))
    probed, baseline_seconds = timed(lambda: probe.of(data))
    metric, truth = judge(data.task), truths(data.task, data.splits["test"])
    mine = answers(model, data)
    score = interval(metric, truth, mine)
    apart = paired_difference(metric, truth, mine, probed.test)
    card = model.card["tasks"][name]
    return Result(
        name,
        metric.name,
        {split: len(examples) for split, examples in data.splits.items()},
        score.value,
        score.low,
        score.high,
        metric.compute(truth, probed.test),
        apart.value,
        apart.low,
        apart.high,
        "win" if apart.low > 0 else "loss" if apart.high < 0 else "tie",
        asdict(product_seconds) | model.card["seconds"],
        asdict(baseline_seconds),
        {key: card[key] for key in ("reads", "solver", "penalty", "dev")},
        {"model": probed.name, "dev": probed.dev, "candidates": probed.candidates},
    )


def summary(results: Sequence[Result]) -> str:
    """How many tasks are won, tied and lost; what is behind by its value, even if within chance, is named."""
    counts = Counter(result.verdict for result in results)
    behind = [result.task for result in results if result.difference < 0]
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("win", "tie", "loss"))
    return f"{said}; below the baseline's value: {', '.join(behind) or 'none'}"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser(__doc__)
    options.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    chosen = options.parse_args(arguments)
    use_threads(chosen.threads)
    from probes import Probe
    from taskheads.backbone.backbone import Backbone

    record: dict[str, Any] = {"benchmark": "quality", "facts": facts(chosen.threads), "limit": chosen.limit}
    backbone, probe = Backbone.load("minilm"), Probe(model_folder())
    results: list[Result] = []
    for name in chosen.tasks:
        results.append(compare(name, backbone, probe, chosen.limit))
        print("  ".join(results[-1].line()), file=sys.stderr, flush=True)
        keep(chosen.out, record | {"results": [asdict(result) for result in results]})
    show_facts(record["facts"])
    show(
        "taskheads against scikit-learn on sentence-transformers embeddings, test, in points",
        COLUMNS,
        [result.line() for result in results],
    )
    print(summary(results))
    return record | {"results": [asdict(result) for result in results]}


if __name__ == "__main__":
    main()
