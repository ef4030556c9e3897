"""A training step, beside the Trainer of Hugging Face: tokens a second, memory, and whether losses agree.

One classification task on texts of mixed length, with the same encoder, head and optimiser on both sides, and
the same rows in the same order, tokenised beforehand.

taskheads    the product's loop: rows end to end, as many as have 2048 tokens.
Trainer      dynamic padding, every batch to its longest row: batches of 8, accumulated to about as many rows
             a step as the product's has, and batches of 32 likewise. The faster of the two is the peer.

Every round of a side is a process of its own, whose peak memory counts, and sides take turns; the fastest of
several rounds counts. Losses are compared step by step without dropout: the curves must be the same.

    python benchmarks/training_step.py --out training_step.json
    python benchmarks/training_step.py --limit 300 --steps 3 --rounds 1
"""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from report import facts, keep, parser, show, show_facts, use_threads
from speed import bar
from step_sides import TASK, WARM, Mine, Texts, Theirs
from trainer import without_dropout

TEXTS = 2000
APART = 1e-4
MINE = "taskheads"
BATCHES = {"Trainer, batches of 8": 8, "Trainer, batches of 32": 32}
SIDES = (MINE, *BATCHES)
MIB = 2**20
Figures = dict[str, Any]


def measured(name: str, count: int, steps: int) -> Figures:
    """One round of one side in this process: tokens and seconds after the warm-up, the most memory held."""
    data = Texts.read(count)
    if name == MINE:
        mine = Mine(data)
        loaded = peak()
        marks = mine.round(steps)
    else:
        theirs = Theirs(data)
        loaded = peak()
        marks = theirs.round(steps, BATCHES[name])
    (before, start), (after, end) = marks[WARM], marks[WARM + steps]
    taken = end - start
    return {
        "tokens": after - before,
        "seconds": taken.wall,
        "cpu_seconds": taken.cpu,
        "loaded_bytes": loaded,
        "peak_bytes": peak(),
    }


def apart(name: str, count: int, steps: int, threads: int) -> Figures:
    """`measured` in a process of its own."""
    options = ["--measure", name, "--limit", count, "--steps", steps, "--threads", threads]
    command = [sys.executable, __file__, *map(str, options)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak() -> int:
    """The most bytes that this process has held since its program was started.

    Linux counts what the parent held into `ru_maxrss` of a child, but not into `VmHWM`.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def agreement(data: Texts, steps: int) -> Figures:
    """The losses of both sides' first steps: no dropout, the same rows, the same first head.

    The product divides a loss by what an answer without input would lose; so does the other side here, and
    neither clips gradients. Trainer takes the rows of a step in parts of at most 8, weighted by their rows.
    """
    from torch.utils.data import DataLoader
    from transformers import Trainer

    mine, theirs = Mine(data), Theirs(data)
    without_dropout(mine.backbone.model)
    without_dropout(theirs.model)
    linear = theirs.model.head
    mine.head.put(linear.weight.T, linear.bias)
    run = mine.run(steps, clip=1e9)
    ahead = copy.deepcopy(run.stream)
    drawn = [ahead.draw()[TASK] for _ in range(steps)]
    parts = -(-max(map(len, drawn)) // 8)
    batches = [part.tolist() for rows in drawn for part in np.array_split(rows, parts)]
    weights = iter([len(part) / len(rows) for rows in drawn for part in np.array_split(rows, parts)])
    product = [value for _, value in run.train().losses[TASK]]
    peer: list[float] = []

    class InOrder(Trainer):
        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)

        def compute_loss(self, *given: Any, **more: Any) -> Any:
            loss = super().compute_loss(*given, **more) * next(weights)
            peer.append(loss.item())
            return loss * parts / run.units[TASK]  # Trainer takes the mean over the parts

    theirs.train(theirs.rows, InOrder, max_steps=steps, gradient_accumulation_steps=parts, max_grad_norm=0.0)
    sums = np.reshape(peer, (steps, parts)).sum(1).tolist()
    difference = max(abs(a - b) for a, b in zip(product, sums, strict=True))
    return {"taskheads": product, "Trainer": sums, "largest_difference": difference}


def verdicts(found: Figures) -> list[Figures]:
    """Show all sides, and compare the product with the faster one of Trainer's."""
    best = {name: min(rounds, key=lambda each: each["seconds"]) for name, rounds in found["rounds"].items()}
    rate = {name: each["tokens"] / each["seconds"] for name, each in best.items()}
    per_cpu = {name: each["tokens"] / each["cpu_seconds"] for name, each in best.items()}
    used = {name: max(each["peak_bytes"] for each in found["rounds"][name]) for name in best}
    rows = [
        (
            name,
            each["tokens"],
            f"{rate[name]:.0f}",
            f"{rate[MINE] / rate[name]:.2f}",
            f"{used[name] / MIB:.0f}",
            f"{(used[name] - each['loaded_bytes']) / MIB:.0f}",
            f"{used[MINE] / used[name]:.2f}",
        )
        for name, each in best.items()
    ]
    columns = ("side", "tokens", "tokens/s", "ours is x", "peak MiB", "of it training", "ours in it")
    show(f"Training on {found['texts']} texts of mixed length, real tokens, best round", columns, rows)
    peer = max(BATCHES, key=lambda name: rate[name])
    print(f"the faster peer: {peer}")
    return [
        bar("largest difference of losses", found["agreement"]["largest_difference"], "<=", APART),
        bar("times its tokens a second", rate[MINE] / rate[peer], ">=", 1.5, per_cpu[MINE] / per_cpu[peer]),
        bar("peak memory in terms of its", used[MINE] / used[peer], "<=", 1.0),
    ]


def main(given: Sequence[str] | None = None) -> Figures:
    options = parser(__doc__ or "")
    options.add_argument("--steps", type=int, default=6, help="steps that a round counts; default: 6")
    options.add_argument("--rounds", type=int, default=2, help="best of so many; default: 2")
    options.add_argument("--measure", choices=SIDES, help="one round of one side: for the script's own use")
    chosen = options.parse_args(given)
    count = min(chosen.limit or TEXTS, TEXTS)
    use_threads(chosen.threads)
    if chosen.measure:
        found = measured(chosen.measure, count, chosen.steps)
        print(json.dumps(found))
        return found
    record: Figures = {"benchmark": "training_step", "facts": facts(chosen.threads), "texts": count}
    show_facts(record["facts"])
    record["agreement"] = agreement(Texts.read(count), chosen.steps)
    record["rounds"] = {name: [] for name in SIDES}
    keep(chosen.out, record)
    for number in range(chosen.rounds):
        for name, rounds in record["rounds"].items():
            rounds.append(apart(name, count, chosen.steps, chosen.threads))
            speed = rounds[-1]["tokens"] / rounds[-1]["seconds"]
            print(f"  round {number + 1}, {name}: {speed:.0f} tokens/s", flush=True)
            keep(chosen.out, record)
    record["bars"] = verdicts(record)
    keep(chosen.out, record)
    return record


if __name__ == "__main__":
    main()
