"""Which heads a backbone should begin to be tuned under: at random, as solved, or less sure of themselves.

The backbone is tuned in full (`tune="full"`) for the tasks of `joint.py`, each alone or all together, under
heads that begin

random    as a new `torch.nn.Linear` does
solved    as they were solved on the frozen backbone
third     with scores 0.3 times as far from their mean as solved
skill     as the product has it: 0.3 times the root of the head's skill on dev

at one learning rate, all else equal. Those of heads without probabilities begin as solved each time. Shown
are the scores on dev and test, means over seeds, with those of each seed in the JSON.

    python benchmarks/starting.py --tasks sst5 --limit 2000 --epochs 2 --seeds 3
    python benchmarks/starting.py --together --limit 1000 --lr 4e-4
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from joint import TASKS, suite_of
from report import facts, keep, parser, show, show_facts, use_threads

Figures = dict[str, Any]
Heads = Callable[..., Mapping[str, Any]]


def at_random(heads: Mapping[str, Any], tasks: Any, features: Any) -> Mapping[str, Any]:
    from torch.nn import Linear

    for head in _of_probabilities(heads).values():
        new = Linear(*head.weight.shape)
        head.put(new.weight.T, new.bias)
    return heads


def as_solved(heads: Mapping[str, Any], tasks: Any, features: Any) -> Mapping[str, Any]:
    return heads


def by_skill(heads: Mapping[str, Any], tasks: Any, features: Any) -> Mapping[str, Any]:
    from taskheads.training.joint.starting import unsure

    return unsure(heads, tasks, features)


def a_third_as_sure(heads: Mapping[str, Any], tasks: Any, features: Any) -> Mapping[str, Any]:
    with patch("taskheads.training.joint.starting.skill", lambda *_: 1.0):
        return by_skill(heads, tasks, features)


WAYS: dict[str, Heads] = {
    "random": at_random,
    "solved": as_solved,
    "third": a_third_as_sure,
    "skill": by_skill,
}


def _of_probabilities(heads: Mapping[str, Any]) -> dict[str, Any]:
    return {name: head for name, head in heads.items() if getattr(head, "curvature", None) is not None}


def tuned(suite: Any, solved: Any, way: str, seed: int, training: Figures) -> Figures:
    """Each task's score on dev and on test, once the backbone was tuned under heads that begin this way."""
    import torch

    import taskheads as th

    torch.manual_seed(seed)
    with patch("taskheads.training.joint.tuning.unsure", WAYS[way]):
        model = th.fit(
            replace(suite, seed=seed), tune="full", backbone="minilm", training=training, solved=solved
        )
    scores = {
        name: {"dev": card["dev"], "test": card["test"]["value"]}
        for name, card in model.card["tasks"].items()
    }
    for name, each in scores.items():
        print(f"  {way}, seed {seed}, {name}: dev {each['dev']:.4f}, test {each['test']:.4f}", flush=True)
    return scores


def compared(suite: Any, ways: Sequence[str], seeds: int, training: Figures) -> Figures:
    """By way and task: the scores of each seed on both splits."""
    import taskheads as th
    from taskheads.training.solving import solve

    solved = solve(th.Backbone.load("minilm"), suite)
    runs = {way: [tuned(suite, solved, way, seed, training) for seed in range(seeds)] for way in ways}
    return {
        way: {
            name: {split: [each[name][split] for each in several] for split in ("dev", "test")}
            for name in suite.tasks
        }
        for way, several in runs.items()
    }


def main(given: Sequence[str] | None = None) -> Figures:
    options = parser(__doc__ or "")
    options.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    options.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    options.add_argument("--together", action="store_true", help="one model for all tasks; default: one each")
    options.add_argument("--epochs", type=float, default=2.0, help="default: 2")
    options.add_argument("--lr", type=float, default=2e-4, help="default: 2e-4")
    options.add_argument("--tokens", type=int, default=512, help="of a step; default: 512")
    options.add_argument("--seeds", type=int, default=1, help="default: 1")
    chosen = options.parse_args(given)
    use_threads(chosen.threads)
    training = {"lr": chosen.lr, "epochs": chosen.epochs, "tokens": chosen.tokens, "minutes": None}
    said = {key: getattr(chosen, key) for key in ("limit", "together", "seeds")}
    record: Figures = {"benchmark": "starting", "facts": facts(chosen.threads), **said, "training": training}
    show_facts(record["facts"])
    found: dict[str, Figures] = {way: {} for way in chosen.ways}
    for names in [chosen.tasks] if chosen.together else [[name] for name in chosen.tasks]:
        for way, scores in compared(
            suite_of(names, chosen.limit), chosen.ways, chosen.seeds, training
        ).items():
            found[way] |= scores
    rows = []
    for way, scores in found.items():
        every = [[float(np.mean(scores[name][split])) for split in ("dev", "test")] for name in chosen.tasks]
        if len(every) > 1:
            every.append(np.mean(every, axis=0).tolist())
        rows.append([way, *(f"{100 * dev:.1f}, {100 * test:.1f}" for dev, test in every)])
    columns = ["heads begin", *chosen.tasks, *(["mean"] if len(chosen.tasks) > 1 else [])]
    show(f"dev, test in points, means of {chosen.seeds} seeds", columns, rows)
    record["scores"] = found
    keep(chosen.out, record)
    return record


if __name__ == "__main__":
    main()
