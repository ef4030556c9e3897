"""Nine tasks: one model tuned for all of them, beside a model fine-tuned for each alone by Trainer.

taskheads    `th.fit(tune="auto")` with all tasks, as a user calls it, with the minutes that its epochs take;
             of the learning rates it takes the one that is best on dev after a third of them (`rates`).
Trainer      (`alone.py`) for each task the same encoder with a head, dynamic padding, batches of 16.

Both sides see the same rows for as many epochs at most, and choose between the same learning rates on dev:
the joint model by the mean of its tasks' dev scores, Trainer task by task, at the end of all. Shown are test
scores, their difference with its paired bootstrap interval, and the seconds of both sides, all rates and dev
included; and what would be the ratio of times if dev cost Trainer nothing, or if it, too, had tried the other
rates for a third of its epochs only.

Each finished piece (the joint model, a task by Trainer at a rate) is kept as JSON in the folder `--parts`, by
default named like `--out` without its ending; what is there and was made with the same options is not made
again.

    python benchmarks/joint.py --limit 400 --out joint.json
    python benchmarks/joint.py --tasks trec_fine wnut17 --limit 1000 --epochs 3
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from quality import TASKS as DECLARED
from report import data_folder, facts, keep, parser, show, show_facts, timed, use_threads
from speed import bar

TASKS: dict[str, dict[str, Any]] = {
    "clinc150": DECLARED["clinc150"],
    "trec_fine": DECLARED["trec_fine"],
    "sst5": DECLARED["sst5_classify"],
    "stsbenchmark": DECLARED["stsbenchmark"],
    "wnut17": DECLARED["wnut17"],
    "atis_slots": DECLARED["atis_slots"],
    "atis_intent": DECLARED["atis_intent"],
    "nlupp_banking": DECLARED["nlupp_banking"],
    "offensiveness": {
        "data": "offensiveness",
        "input": "text",
        "label": "offensiveness",
        "kind": "regress",
    },
}
RATES = (5e-5, 2e-4, 4e-4)
SCORED_BY = {"classify": "label", "regress": "value", "pair": "value", "tag": "tags", "multilabel": "labels"}
Figures = dict[str, Any]


class Parts:
    """Finished pieces of work, a JSON file each in `folder`; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, name: str, said: Figures, work: Callable[[], Figures]) -> Figures:
        """What `work` returns, done anew unless it is kept and was done with the same options `said`."""
        path = None if self.folder is None else self.folder / f"{name}.json"
        if path is not None and path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["said"] == said:
                return found
        made = {"said": said} | work()
        keep(path, made)
        return made


def suite_of(names: Sequence[str], limit: int | None) -> Any:
    """The tasks as one suite; each split cut to `limit` evenly spaced rows."""
    import taskheads as th

    tasks = {}
    for name in names:
        folder = data_folder() / TASKS[name]["data"]
        files = {split: folder / f"{split}.jsonl" for split in ("train", "dev", "test")}
        present = {split: str(path) for split, path in files.items() if path.exists()}
        tasks[name] = TASKS[name] | {"data": present}
    suite = th.load_suite({"tasks": tasks})
    if limit is not None:
        for name, data in suite.tasks.items():
            splits = {split: examples.thinned(limit) for split, examples in data.splits.items()}
            suite.tasks[name] = replace(data, splits=splits)
    return suite


def together(suite: Any, rates: Sequence[float], epochs: float) -> Figures:
    """The joint model: its learning rate, its seconds, and what it tells of each task's test rows."""
    import taskheads as th

    said = {"rates": list(rates), "epochs": epochs, "minutes": None}
    model, seconds = timed(lambda: th.fit(suite, tune="auto", backbone="minilm", training=said))
    cards = model.card["tasks"]
    made = {
        "rate": model.report["curves"]["lr"],
        "seconds": seconds.wall,
        "stages": {stage["name"]: stage["seconds"] for stage in model.report["stages"]},
        "kept": {name: cards[name]["kept"].split()[0] for name in suite.tasks},
        "answers": {name: plain(answered(model, data)) for name, data in suite.tasks.items()},
    }
    print(f"  joint, lr {made['rate']:g}: {seconds.wall:.0f} s", flush=True)
    return made


def answered(model: Any, data: Any) -> Any:
    """What the model tells its user of the test rows, as the task's metric takes it."""
    from probes import truths

    task, test = data.task, data.splits["test"]
    rows = [dict(zip(task.inputs, values, strict=True)) for values in zip(*test.inputs, strict=True)]
    answers = [answer[task.name] for answer in model.predict(rows, tasks=[task.name])]
    return truths(task, replace(test, targets=[answer[SCORED_BY[task.kind]] for answer in answers]))


def alone(data: Any, rate: float, epochs: float) -> Figures:
    """One task by Trainer at this rate: how good it is on dev, and what it says of test."""
    from alone import Alone

    task = Alone(data)
    (dev, answers), seconds = timed(lambda: task.fit(rate, epochs))
    print(f"  {data.task.name} by Trainer, lr {rate:g}: dev {dev:.4f}, {seconds.wall:.0f} s", flush=True)
    return {
        "rate": rate,
        "dev": dev,
        "seconds": seconds.wall,
        "dev_seconds": task.looked,
        "answers": plain(answers),
    }


def at_best_rate(tried: Sequence[Figures]) -> Figures:
    """Of one task's runs the one that is best on dev, with the seconds of all."""
    best = max(tried, key=lambda each: each["dev"])
    return best | {key: sum(each[key] for each in tried) for key in ("seconds", "dev_seconds")}


def plain(answers: Any) -> list[Any]:
    """Answers as JSON has them; `np.asarray` undoes it but for tags, which are lists already."""
    return answers if isinstance(answers, list) else np.asarray(answers).tolist()


def beside(data: Any, joint: Figures, answers: Any) -> Figures:
    """The scores on a task's test rows of a joint model, and of a peer with these answers."""
    from probes import judge, truths
    from taskheads.tasks.metrics import paired_difference

    task, metric = data.task, judge(data.task)
    truth = truths(task, data.splits["test"])
    mine, theirs = (
        told if task.kind == "tag" else np.asarray(told) for told in (joint["answers"][task.name], answers)
    )
    apart = paired_difference(metric, truth, mine, theirs)
    return {
        "metric": metric.name,
        "rows": {split: len(each) for split, each in data.splits.items()},
        "joint": metric.compute(truth, mine),
        "peer": metric.compute(truth, theirs),
        "difference": {"value": apart.value, "low": apart.low, "high": apart.high},
        "kept": joint["kept"][task.name],
    }


def shown(title: str, peer: str, tasks: dict[str, Figures]) -> float:
    """Print the scores of both sides in points; by how much the mean of the joint ones is higher."""
    rows = []
    for name, each in tasks.items():
        points = [f"{100 * each['difference'][end]:+.1f}" for end in ("value", "low", "high")]
        both = [f"{100 * each[side]:.1f}" for side in ("joint", "peer")]
        rows.append([name, each["metric"], *both, f"{points[0]} [{points[1]}, {points[2]}]", each["kept"]])
    mean = {side: float(np.mean([each[side] for each in tasks.values()])) for side in ("joint", "peer")}
    above = mean["joint"] - mean["peer"]
    rows.append(["mean", "", *(f"{100 * value:.1f}" for value in mean.values()), f"{100 * above:+.1f}", ""])
    show(title, ("task", "metric", "joint", peer, "difference", "kept"), rows)
    return above


def verdicts(tasks: dict[str, Figures], mean: float, seconds: dict[str, float]) -> list[Figures]:
    print(
        f"joint {seconds['joint']:.0f} s; alone {seconds['alone']:.0f} s, "
        f"{seconds['alone_dev']:.0f} s of them to look at dev after every epoch"
    )
    lost = [name for name, each in tasks.items() if each["difference"]["high"] < 0]
    print(f"below Trainer's beyond the interval: {', '.join(lost) or 'none'}")
    lean = seconds["joint"] / (seconds["alone"] - seconds["alone_dev"])
    early = seconds["joint"] / (seconds["alone"] * (1 + (len(RATES) - 1) / 3) / len(RATES))
    print(f"joint time in terms of Trainer's, were its looks at dev free: {lean:.3f}")
    print(f"joint time in terms of Trainer's, had it chosen its rates as early: {early:.3f}")
    return [
        bar("mean difference", mean, ">=", 0.0),
        bar("tasks below beyond their interval", len(lost), "<=", 0),
        bar("joint time in terms of Trainer's", seconds["joint"] / seconds["alone"], "<=", 0.5),
    ]


def main(given: Sequence[str] | None = None) -> Figures:
    options = parser(__doc__ or "")
    options.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    options.add_argument("--epochs", type=float, default=3.0, help="of both sides; default: 3")
    options.add_argument("--parts", type=Path, help="folder of finished pieces; default: as --out says")
    chosen = options.parse_args(given)
    use_threads(chosen.threads)
    record: Figures = {"benchmark": "joint", "facts": facts(chosen.threads), "limit": chosen.limit}
    show_facts(record["facts"])
    folder = chosen.parts or (chosen.out.with_suffix("") if chosen.out else None)
    parts, suite, epochs = Parts(folder), suite_of(chosen.tasks, chosen.limit), chosen.epochs
    said = {"limit": chosen.limit, "epochs": epochs, "threads": chosen.threads}
    both = said | {"tasks": list(chosen.tasks)}
    joint = parts.get("joint", both | {"rates": list(RATES)}, lambda: together(suite, RATES, epochs))
    tasks = {}
    for name, data in suite.tasks.items():
        tried = [
            parts.get(
                f"{name}, lr {rate:g}",
                said | {"rate": rate},
                lambda data=data, rate=rate: alone(data, rate, epochs),
            )
            for rate in RATES
        ]
        peer = at_best_rate(tried)
        told = {key: peer[key] for key in ("rate", "seconds", "dev_seconds")}
        tasks[name] = beside(data, joint, peer["answers"]) | {"alone": told}
        keep(chosen.out, record | {"tasks": tasks})
    seconds = {
        "joint": joint["seconds"],
        "alone": sum(each["alone"]["seconds"] for each in tasks.values()),
        "alone_dev": sum(each["alone"]["dev_seconds"] for each in tasks.values()),
    }
    title = f"One model for {len(tasks)} tasks (lr {joint['rate']:g}) and Trainer's for each, test, in points"
    mean = shown(title, "alone", tasks)
    mine = {key: joint[key] for key in ("rate", "seconds", "stages", "kept")}
    record |= {"epochs": epochs, "joint": mine, "tasks": tasks, "seconds": seconds}
    record["bars"] = verdicts(tasks, mean, seconds)
    keep(chosen.out, record)
    return record


if __name__ == "__main__":
    main()
