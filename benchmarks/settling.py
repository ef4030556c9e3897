"""Which head a tuned backbone should get: the one trained with it, or one solved for anew.

The backbone is tuned in full (`tune="full"`) for the tasks of `joint.py` together. Of both heads of each task
are shown the score and the loss on dev, once calibrated there, and the score on test; then the mean score on
test of always taking one of them, of taking the better by its score on dev, and of taking the better by its
loss, as the product does.

    python benchmarks/settling.py --limit 2000 --epochs 2 --lr 2e-4 --out settling.json
    python benchmarks/settling.py --tasks sst5 wnut17 --limit 1000 --seeds 2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from joint import TASKS, suite_of
from report import facts, keep, parser, show, show_facts, use_threads

Figures = dict[str, Any]
HEADS = ("trained", "solved")
RULES: dict[str, Callable[[Figures], str]] = {
    "always trained": lambda _: "trained",
    "always solved": lambda _: "solved",
    "by score on dev": lambda heads: max(HEADS, key=lambda name: heads[name]["dev"]),
    "by loss on dev": lambda heads: min(HEADS, key=lambda name: heads[name]["loss"]),
}


def both_heads(suite: Any, training: Figures) -> dict[str, Figures]:
    """By task and head: its score and loss on dev and its score on test, higher scores being better."""
    import taskheads as th
    from taskheads.model.evaluation import decided, metric_value, truth_of
    from taskheads.training.joint import settle

    found: dict[str, Figures] = {}
    missed = settle.missed

    def noted(fitted: Any, data: Any, features: Any) -> float:
        rows = data.splits["test"]
        value = metric_value(
            fitted.head, truth_of(fitted.head, rows), decided(fitted.head, rows, features)[1]
        )
        name, loss = "trained" if fitted.solver == "trained" else "solved", missed(fitted, data, features)
        found.setdefault(data.task.name, {})[name] = {
            "dev": fitted.utility,
            "loss": loss,
            "test": fitted.head.metric.utility(value),
        }
        return loss

    with patch.object(settle, "missed", noted):
        th.fit(suite, tune="full", backbone="minilm", training=training)
    return {name: found[name] for name in suite.tasks}


def main(given: Sequence[str] | None = None) -> Figures:
    options = parser(__doc__ or "")
    options.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    options.add_argument("--epochs", type=float, default=2.0, help="default: 2")
    options.add_argument("--lr", type=float, default=2e-4, help="default: 2e-4")
    options.add_argument("--seeds", type=int, default=1, help="default: 1")
    chosen = options.parse_args(given)
    use_threads(chosen.threads)
    # `rates` of one rate: what is tuned is what `joint.py` tunes.
    training = {"rates": [chosen.lr], "epochs": chosen.epochs, "minutes": None}
    record: Figures = {"benchmark": "settling", "facts": facts(chosen.threads), "limit": chosen.limit}
    show_facts(record["facts"])
    suite = suite_of(chosen.tasks, chosen.limit)
    runs = [both_heads(replace(suite, seed=seed), training) for seed in range(chosen.seeds)]
    for seed, run in enumerate(runs):
        rows = [
            [
                name,
                *(
                    f"{100 * heads[of]['dev']:.1f}, {heads[of]['loss']:.4f}, {100 * heads[of]['test']:.1f}"
                    for of in HEADS
                ),
            ]
            for name, heads in run.items()
        ]
        show(f"seed {seed}: score and loss on dev, score on test", ["task", *HEADS], rows)
    record["scores"] = runs
    record["rules"] = {
        rule: float(np.mean([heads[choose(heads)]["test"] for run in runs for heads in run.values()]))
        for rule, choose in RULES.items()
    }
    rows = [[rule, f"{100 * value:.2f}"] for rule, value in record["rules"].items()]
    show("mean score on test", ["the head is taken", "points"], rows)
    keep(chosen.out, record | {"training": training})
    return record


if __name__ == "__main__":
    main()
