"""Intents from a few examples a class, beside SetFit with the same encoder: clinc150, test accuracy, seconds.

frozen, auto   `th.fit` as a user calls it with the examples alone: its dev rows are made from them.
SetFit         the library (`pip install setfit`), at its defaults but for the pairs: contrastive pairs under
               the cosine loss, AdamW at 2e-5, batches of 16, one epoch; then logistic regression.

By default SetFit trains on every pair of examples, oversampled: 1.4 million for 8 examples of 150 classes.
Here it is given 20 positive and 20 negative pairs an example, `num_iterations=20`, as in its paper (Tunstall
et al. 2022, arXiv:2209.11055). Of 64 examples a class that still is 384,000 pairs, hours on a few cores; so,
unless `--classes` says otherwise, 20 classes are drawn there for all sides.

Examples and classes are drawn by `--seed`; all sides see the same ones, and are judged on all test rows of
these classes. Seconds are from texts to a fitted model, the encoder being loaded already. With two cores,
SetFit takes some 15 minutes of either default.

    python benchmarks/few_shot.py --out few_shot.json
    python benchmarks/few_shot.py --shots 8 --classes 20 --seed 1
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from report import (
    Seconds,
    data_folder,
    facts,
    keep,
    model_folder,
    parser,
    show,
    show_facts,
    timed,
    use_threads,
)
from speed import bar

SHOTS = (8, 64)
CLASSES = {8: 150, 64: 20}
ITERATIONS = 20
BATCH = 16  # SetFit's own
PEER = "SetFit"
Figures = dict[str, Any]
Row = dict[str, str]
Answers = tuple[list[str], Seconds]  # the intents told of the test rows, and what fitting took


@dataclass(frozen=True)
class Drawn:
    """Examples to learn from, the same number of each class, and all test rows of these classes."""

    train: list[Row]
    test: list[Row]

    @classmethod
    def of(cls, shots: int, classes: int | None, limit: int | None, seed: int) -> Drawn:
        """Classes and examples at random; at most `limit` test rows, evenly spaced."""
        draw = random.Random(seed)
        found: dict[str, list[Row]] = defaultdict(list)
        for row in rows_of("train"):
            found[row["intent"]].append(row)
        chosen = draw.sample(sorted(found), min(len(found), classes or CLASSES.get(shots, len(found))))
        train = [row for name in chosen for row in draw.sample(found[name], shots)]
        draw.shuffle(train)
        test = [row for row in rows_of("test") if row["intent"] in chosen]
        count = min(len(test), limit or len(test))
        return cls(train, [test[at * len(test) // count] for at in range(count)])


def installed() -> str:
    """SetFit's version; without it there is nothing to compare with."""
    try:
        return version("setfit")
    except PackageNotFoundError:
        raise SystemExit("the peer of this benchmark is not installed: pip install setfit") from None


def rows_of(split: str) -> list[Row]:
    path = data_folder() / "clinc150" / f"{split}.jsonl"
    with path.open(encoding="utf-8") as lines:
        return [{key: row[key] for key in ("text", "intent")} for row in map(json.loads, lines)]


def taskheads(tune: str, drawn: Drawn) -> Answers:
    """The product, told of train and test rows only."""
    import taskheads as th
    from taskheads.backbone.backbone import Backbone

    with tempfile.TemporaryDirectory() as folder:
        files = {split: Path(folder) / f"{split}.jsonl" for split in ("train", "test")}
        for split, path in files.items():
            path.write_text("\n".join(map(json.dumps, getattr(drawn, split))), encoding="utf-8")
        task = {"input": "text", "label": "intent", "kind": "classify"}
        suite = th.load_suite(
            {"data": {split: str(path) for split, path in files.items()}, "tasks": {"intent": task}}
        )
    backbone = Backbone.load("minilm")
    model, seconds = timed(lambda: th.fit(suite, tune=tune, backbone=backbone))
    answers = model.predict([row["text"] for row in drawn.test])
    return [answer["intent"]["label"] for answer in answers], seconds


def setfit(drawn: Drawn, iterations: int, seed: int) -> Answers:
    """SetFit's own trainer and head."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from transformers import ProgressCallback
    from transformers.utils import logging

    logging.disable_progress_bar()
    names = sorted({row["intent"] for row in drawn.train})
    # As many steps as one epoch has: without them SetFit lists all pairs before it takes some.
    steps = -(-2 * iterations * len(drawn.train) // BATCH)

    model = SetFitModel.from_pretrained(model_folder(), labels=names, device="cpu")
    rows = {"text": [row["text"] for row in drawn.train], "label": [row["intent"] for row in drawn.train]}
    with tempfile.TemporaryDirectory() as folder:
        said = TrainingArguments(
            output_dir=folder,
            batch_size=BATCH,
            num_iterations=iterations,
            max_steps=steps,
            seed=seed,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            show_progress_bar=False,
        )
        trainer = Trainer(model=model, args=said, train_dataset=Dataset.from_dict(rows))
        trainer.remove_callback(ProgressCallback)
        _, seconds = timed(trainer.train)
    return [str(name) for name in model.predict([row["text"] for row in drawn.test])], seconds


def compared(drawn: Drawn, iterations: int, seed: int, told: Callable[[Figures], None]) -> Figures:
    """All sides on the same rows; `told` is given what is known so far."""
    sides: dict[str, Callable[[], Answers]] = {
        "frozen": lambda: taskheads("frozen", drawn),
        "auto": lambda: taskheads("auto", drawn),
        PEER: lambda: setfit(drawn, iterations, seed),
    }
    truth = np.asarray([row["intent"] for row in drawn.test])
    found: Figures = {"rows": {"train": len(drawn.train), "test": len(drawn.test)}, "sides": {}}
    right: dict[str, np.ndarray] = {}
    for name, side in sides.items():
        answers, seconds = side()
        right[name] = np.asarray(answers) == truth
        found["sides"][name] = {"accuracy": float(right[name].mean()), "seconds": asdict(seconds)}
        print(f"  {name}: {right[name].mean():.4f}, {seconds.wall:.0f} s", flush=True)
        told(found)
    for name in ("frozen", "auto"):
        found["sides"][name]["difference"] = difference(right[name], right[PEER])
    return found


def difference(mine: np.ndarray, theirs: np.ndarray) -> Figures:
    """How much more often `mine` is right, with its paired bootstrap interval."""
    from taskheads.tasks.metrics import metric_named, paired_difference

    apart = paired_difference(metric_named("accuracy", "classify"), np.ones(len(mine), int), mine, theirs)
    return {"value": apart.value, "low": apart.low, "high": apart.high}


def verdicts(found: Figures, shots: int, classes: int) -> list[Figures]:
    rows = []
    for name, side in found["sides"].items():
        apart = side.get("difference")
        points = (
            ""
            if apart is None
            else "{value:+.1f} [{low:+.1f}, {high:+.1f}]".format(
                **{end: 100 * value for end, value in apart.items()}
            )
        )
        taken = side["seconds"]
        rows.append(
            (name, f"{100 * side['accuracy']:.1f}", points, f"{taken['wall']:.1f}", f"{taken['cpu']:.1f}")
        )
    title = f"{classes} intents, {shots} examples of each, {found['rows']['test']} test rows"
    show(title, ("side", "accuracy", f"above {PEER}", "wall s", "processor s"), rows)
    mine, theirs = found["sides"]["auto"], found["sides"][PEER]
    times = {clock: mine["seconds"][clock] / theirs["seconds"][clock] for clock in ("wall", "cpu")}
    return [
        bar(f"auto above {PEER}, {shots} examples", mine["difference"]["value"], ">=", 0.0),
        bar(f"its time in terms of {PEER}'s, {shots} examples", times["wall"], "<=", 1.0, times["cpu"]),
    ]


def main(given: Sequence[str] | None = None) -> Figures:
    options = parser(__doc__ or "")
    options.add_argument(
        "--shots", nargs="+", type=int, default=SHOTS, help="examples a class; default: 8 64"
    )
    options.add_argument("--classes", type=int, help="default: all 150 of 8 examples, 20 of 64")
    options.add_argument("--iterations", type=int, default=ITERATIONS, help="SetFit's; default: 20")
    options.add_argument("--seed", type=int, default=0, help="of what is drawn, and SetFit's; default: 0")
    chosen = options.parse_args(given)
    use_threads(chosen.threads)
    known = facts(chosen.threads)
    known["versions"]["setfit"] = installed()
    show_facts(known)
    record: Figures = {"benchmark": "few_shot", "facts": known, "iterations": chosen.iterations}
    record["seed"] = chosen.seed
    for shots in chosen.shots:
        drawn = Drawn.of(shots, chosen.classes, chosen.limit, chosen.seed)
        classes = len({row["intent"] for row in drawn.train})
        print(f"{classes} intents, {shots} examples of each", flush=True)
        part = f"{shots} examples"
        found = compared(
            drawn,
            chosen.iterations,
            chosen.seed,
            lambda figures, part=part: keep(chosen.out, record | {part: figures}),
        )
        found |= {"classes": classes, "bars": verdicts(found, shots, classes)}
        record[part] = found
        keep(chosen.out, record)
    return record


if __name__ == "__main__":
    main()
