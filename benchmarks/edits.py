"""What edits cost: many tasks in one batch, many tasks about one text, a step of training; beside PEFT.

mixed     rows of 16 and of 64 tasks, each with a LoRA of its own on queries and values, in one batch of
          real texts: a forward pass, and forward and backward, in terms of the bare backbone. PEFT:
          `adapter_names=` on the same rows, padded, in terms of its own bare model (inference alone: it
          refuses to train so).
together  four tasks about the same texts, their LoRAs in the top third of the layers, in terms of one task.
          PEFT: one pass after the other.
step      training one LoRA on texts of mixed length by the product's own loop, in tokens a second. PEFT: the
          same LoRA under Trainer with dynamic padding, as many rows a step in batches of 8 and of 32.
adapters  with `--adapters FOLDER`, an environment that has the `adapters` library (`edits_peer.py` says how
          to make one): its BatchSplit with 16 tasks and its Parallel with four, on the same texts, padded, in
          a process of its own.

Sides take turns in one process; the least of several rounds counts.

    python benchmarks/edits.py --out edits.json
    python benchmarks/edits.py --parts mixed --limit 64 --rounds 3
    python benchmarks/edits.py --adapters ~/venvs/adapters
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from embedding import mixed_texts
from report import Seconds, data_folder, facts, keep, model_folder, parser, show, show_facts, use_threads
from speed import in_turn
from step_sides import TASK, WARM, Marks, Mine, Texts, Theirs

PARTS = ("mixed", "together", "step")
RANK, TARGETS = 8, ["query", "value"]
TASKS = (16, 64)
TOP_THIRD = [4, 5]
ASKED = 4
STEPS, BATCHES = 4, (8, 32)
Figures = dict[str, Any]


def ratio_of(above: Seconds, below: Seconds) -> float:
    return above.wall / below.wall


def stirred(edit: Any) -> Any:
    """The edit with weights other than zero, so that nothing can be skipped."""
    import torch

    for parameter in edit.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return edit


class Ours:
    """The encoder, and a LoRA for each of `count` tasks."""

    def __init__(self, count: int, layers: list[int] | None = None) -> None:
        from taskheads.backbone.backbone import Backbone
        from taskheads.edits.edit import made
        from taskheads.edits.edited import Edited

        self.backbone = Backbone.load("minilm")
        self.tasks = [f"task{number}" for number in range(count)]
        options = {"rank": RANK, "targets": TARGETS, "layers": layers}
        self.edits = {task: stirred(made("lora", self.backbone, [task], options)) for task in self.tasks}
        self.edited = Edited(self.backbone, self.edits)

    def batches(self, texts: list[str]) -> tuple[Any, Any]:
        """The same rows twice: as nobody's, and dealt out to all tasks, sorted by length within each."""
        from taskheads.backbone.ragged import RaggedBatch

        encoded = sorted(self.backbone.tokens.texts(texts), key=len)
        dealt = [encoded[number :: len(self.tasks)] for number in range(len(self.tasks))]
        rows = [row for mine in dealt for row in mine]
        counts = [(task, len(mine)) for task, mine in zip(self.tasks, dealt, strict=True)]
        return RaggedBatch(rows), RaggedBatch(rows, tasks=counts)


class Peft:
    """The same encoder with the same LoRAs by PEFT."""

    def __init__(self, count: int, layers: list[int] | None = None) -> None:
        import peft
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model_folder())
        plain = AutoModel.from_pretrained(model_folder(), dtype=torch.float32).eval()
        self.bare = copy.deepcopy(plain)
        self.tasks = [f"task{number}" for number in range(count)]
        config = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=TARGETS, layers_to_transform=layers)
        self.model = peft.get_peft_model(plain, config, adapter_name=self.tasks[0]).eval()
        for task in self.tasks[1:]:
            self.model.add_adapter(task, config)
        for name, parameter in self.model.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(parameter, std=0.02)

    def batch(self, texts: list[str]) -> Any:
        return self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")


def mixed(texts: list[str], count: int, rounds: int) -> Figures:
    """Seconds of a pass over rows of `count` tasks, for inference and for training."""
    import torch

    ours, theirs = Ours(count), Peft(count)
    plain, dealt = ours.batches(texts)
    padded = theirs.batch(sorted(texts, key=len))
    names = [theirs.tasks[row % count] for row in range(len(texts))]
    every = torch.inference_mode()
    sides = {
        "bare": every(lambda: ours.backbone.run(plain)),
        "mixed": every(lambda: ours.edited.run(dealt)),
        "peft bare": every(lambda: theirs.bare(**padded)),
        "peft mixed": every(lambda: theirs.model(**padded, adapter_names=names)),
    }
    return {
        f"inference, {count} tasks": compared(in_turn(sides, rounds)),
        f"training, {count} tasks": compared(in_turn(training(ours, plain, dealt), rounds)),
    }


def training(ours: Ours, plain: Any, dealt: Any) -> dict[str, Callable[[], Any]]:
    """Forward and backward: of the frozen backbone down to its embeddings, and of it with the edits, whose
    gradients are cleared first, as every step of training does."""
    import torch

    from taskheads.edits.edited import frozen

    def bare() -> None:
        with frozen(ours.backbone):
            change = {"embeddings": lambda x: x.detach().requires_grad_()}
            ours.backbone.run(plain, ["output"], change)["output"].square().mean().backward()

    optimiser = torch.optim.AdamW(each for edit in ours.edits.values() for each in edit.parameters())

    def edited() -> None:
        optimiser.zero_grad()
        with frozen(ours.backbone):
            ours.edited.run(dealt)["output"].square().mean().backward()

    return {"bare": bare, "mixed": edited}


def compared(taken: dict[str, Seconds]) -> Figures:
    found: Figures = {"seconds": {side: asdict(each) for side, each in taken.items()}}
    found["ours"] = ratio_of(taken["mixed"], taken["bare"])
    if "peft mixed" in taken:
        found["peft"] = ratio_of(taken["peft mixed"], taken["peft bare"])
    return found


def together(texts: list[str], rounds: int) -> Figures:
    """Seconds of one task and of four about the same texts."""
    import torch

    from taskheads.edits.edited import run_together

    ours, theirs = Ours(ASKED, TOP_THIRD), Peft(ASKED, TOP_THIRD)
    plain, _ = ours.batches(texts)
    padded = theirs.batch(texts)
    first = ours.tasks[0]

    def all_theirs() -> None:
        for task in theirs.tasks:
            theirs.model.set_adapter(task)
            theirs.model(**padded)

    def one_theirs() -> None:
        theirs.model.set_adapter(theirs.tasks[0])
        theirs.model(**padded)

    every = torch.inference_mode()
    sides = {
        "one": every(lambda: ours.edited.of(first).run(plain)),
        "four": every(lambda: run_together(ours.edited, plain, {task: ["output"] for task in ours.tasks})),
        "peft one": every(one_theirs),
        "peft four": every(all_theirs),
    }
    taken = in_turn(sides, rounds)
    return {
        "seconds": {side: asdict(each) for side, each in taken.items()},
        "ours": ratio_of(taken["four"], taken["one"]),
        "peft": ratio_of(taken["peft four"], taken["peft one"]),
    }


def step(count: int, rounds: int) -> Figures:
    """Tokens a second of training, on `count` texts: of ours, and of PEFT's under each batch size."""
    import peft

    from taskheads.edits.edit import made
    from taskheads.edits.edited import Edited, frozen

    data = Texts.read(count)
    ours, theirs = Mine(data), Theirs(data)
    plain = ours.backbone
    ours.backbone = Edited(plain, {TASK: made("lora", plain, [TASK], {"rank": RANK, "targets": TARGETS})})
    config = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=TARGETS)
    theirs.model.model = peft.get_peft_model(theirs.model.model, config)

    def our_round() -> Marks:
        with frozen(plain):
            return ours.round(STEPS)

    sides = {"ours": our_round} | {f"peft, {at}": partial(theirs.round, STEPS, at) for at in BATCHES}
    speeds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, work in sides.items():
            marks = work()
            (before, start), (after, stop) = marks[WARM], marks[WARM + STEPS]
            speeds[side].append((after - before) / (stop - start).wall)
    best = {side: max(each) for side, each in speeds.items()}
    return {
        "tokens a second": best,
        "ours": best["ours"] / max(each for side, each in best.items() if side != "ours"),
    }


def adapters(texts: list[str], environment: Path, threads: int, rounds: int) -> Figures:
    """What `edits_peer.py` measures in its environment. Raises SystemExit where it fails."""
    said = {"threads": threads, "rounds": rounds, "rank": RANK, "tasks": TASKS[0], "asked": ASKED}
    command = [environment / "bin" / "python", Path(__file__).with_name("edits_peer.py"), model_folder()]
    command += [each for name, value in said.items() for each in (f"--{name}", value)]
    command += ["--top", *TOP_THIRD]
    try:
        told = subprocess.run(
            [*map(str, command)], input=json.dumps(texts), stdout=subprocess.PIPE, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"the adapters library did not run in {environment}: {error}") from None
    taken = {side: Seconds(**each) for side, each in json.loads(told.stdout.splitlines()[-1]).items()}
    return {
        "seconds": {side: asdict(each) for side, each in taken.items()},
        "mixed": ratio_of(taken["mixed"], taken["bare"]),
        "together": ratio_of(taken["four"], taken["one"]),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--adapters", type=Path, help="environment with the adapters library; default: none")
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    use_threads(given.threads)
    texts = mixed_texts(data_folder(), 1024)
    some = texts[: given.limit or 64]
    known = facts(given.threads)
    show_facts(known)
    record: Figures = {"facts": known, "limit": given.limit}
    if "mixed" in given.parts:
        record["mixed"] = {}
        for count in TASKS:
            record["mixed"] |= mixed(some, count, given.rounds)
        rows = [
            [name, f"{each['ours']:.3f}", f"{each['peft']:.3f}" if "peft" in each else "-"]
            for name, each in record["mixed"].items()
        ]
        show(f"{len(some)} rows of many tasks, in terms of the bare model", ["", "taskheads", "PEFT"], rows)
    if "together" in given.parts:
        found = record["together"] = together(some, given.rounds)
        rows = [["four tasks / one", f"{found['ours']:.2f}", f"{found['peft']:.2f}"]]
        show(f"Four tasks about the same {len(some)} texts", ["", "taskheads", "PEFT"], rows)
    if given.adapters is not None:
        found = record["adapters"] = adapters(some, given.adapters, given.threads, given.rounds)
        rows = [
            [f"BatchSplit, {TASKS[0]} tasks / bare", f"{found['mixed']:.2f}"],
            [f"Parallel, {ASKED} tasks / one", f"{found['together']:.2f}"],
        ]
        show(f"The adapters library on {len(some)} texts", ["", "adapters"], rows)
    if "step" in given.parts:
        found = record["step"] = step(4096, given.rounds)
        rows = [[side, f"{each:.0f}"] for side, each in found["tokens a second"].items()]
        show(
            f"Training one LoRA: {found['ours']:.2f} times the better of PEFT", ["", "tokens a second"], rows
        )
    keep(given.out, record)


if __name__ == "__main__":
    main()
