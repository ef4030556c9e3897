"""Merging checkpoints: processor time and memory beside mergekit, LoRA adapters beside PEFT.

Three checkpoints of a Llama of about 0.45 B parameters in bfloat16 are made on the spot: one with random
weights, and two with a little noise added to it. Each method then runs in a process of its own, taskheads
and mergekit in turn, as their command lines: the seconds of processors of the whole process, imports
included, and the peak of its anonymous memory, looked at a hundred times a second. taskheads runs once
before, so that its kernels are compiled and kept.

mergekit is whatever is installed in the environment whose folder is given with --mergekit (its command is
bin/mergekit-yaml there); without it, only taskheads is measured.

Then: 20,000 tensors of four elements each, which is all bookkeeping; the same bytes from one thread and from
two; the share of results that differ from float64 rounded once; four LoRA adapters of a 2048 x 2048 layer,
merged to the best adapter of rank 16, beside PEFT's "svd".

    python benchmarks/merging.py --mergekit ~/venvs/mergekit
    python benchmarks/merging.py --small --methods linear,ties
"""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import report

SMALL = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 4000}
FULL = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "vocab_size": 32000}
METHODS = ("linear", "task_arithmetic", "slerp", "dare", "dare_ties", "ties")
# What a method is called by mergekit, and what is asked of both.
THEIRS = {"dare": "dare_linear"}
DENSITY, WEIGHT = 0.5, 0.3


@dataclass(frozen=True)
class Cost:
    """Of one process: seconds of processors and on the wall, and peak anonymous memory in MB."""

    cpu: float
    wall: float
    memory: float


def main() -> None:
    options = report.parser(__doc__ or "")
    options.add_argument("--small", action="store_true", help="checkpoints of 5 M parameters")
    options.add_argument("--mergekit", type=Path, help="the folder of an environment that has mergekit")
    options.add_argument("--methods", default=",".join(METHODS))
    args = options.parse_args()
    report.use_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    facts = report.facts(1)
    record: dict[str, Any] = {"facts": facts, "small": args.small}
    with tempfile.TemporaryDirectory(prefix="merging.") as folder:
        work = Path(folder)
        record["parameters"] = make_checkpoints(work, SMALL if args.small else FULL)
        record["methods"] = methods(work, args.methods.split(","), args.mergekit)
        record["rounding"] = rounding(work)
        record["threads"] = same_bytes(work)
        record["bookkeeping"] = bookkeeping(work)
    record["adapters"] = adapters()
    report.show_facts(facts)
    report.keep(args.out, record)


def make_checkpoints(work: Path, sizes: dict[str, int]) -> int:
    """Folders A, B and C, as transformers writes them; how many parameters each has."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(num_attention_heads=16, num_key_value_heads=8, dtype="bfloat16", **sizes)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    start = {name: each.clone() for name, each in model.state_dict().items()}
    for seed, name in enumerate("ABC"):
        draw = torch.Generator().manual_seed(seed)
        for key, each in model.state_dict().items():
            noise = torch.randn(each.shape, generator=draw) * (1e-3 if seed else 0.0)
            each.copy_((start[key].float() + noise).to(torch.bfloat16))
        model.save_pretrained(work / name)
    return sum(each.numel() for each in start.values())


def methods(work: Path, names: list[str], mergekit: Path | None) -> dict[str, Any]:
    found, rows = {}, []
    for name in names:
        run_ours(work, name)  # the first run compiles
        ours = run_ours(work, name)
        theirs = None if mergekit is None else run_theirs(work, name, mergekit)
        found[name] = {"taskheads": asdict(ours), "mergekit": theirs and asdict(theirs)}
        row = [name, f"{ours.cpu:.2f}", f"{ours.memory:.0f}"]
        if theirs is not None:
            row += [f"{theirs.cpu:.2f}", f"{theirs.memory:.0f}", f"{theirs.cpu / ours.cpu:.1f}"]
        rows.append(row)
        print(", ".join(row), flush=True)
    columns = ["method", "taskheads CPU s", "MB"]
    columns += [] if mergekit is None else ["mergekit CPU s", "MB", "ratio"]
    report.show("Three checkpoints become one (two and their base where there is one)", columns, rows)
    return found


def run_ours(work: Path, name: str) -> Cost:
    command = [sys.executable, "-m", "taskheads", "merge", "--method", name, "--out", "ours", "--quiet"]
    if name == "linear":
        command += ["--with", "A", "B", "C", "--weights", "0.4,0.3,0.3"]
    elif name == "slerp":
        command += ["--with", "A", "B", "--set", "t=0.4"]
    else:
        command += ["--base", "A", "--with", "B", "C", "--weights", f"{WEIGHT},{WEIGHT}"]
        command += [] if name == "task_arithmetic" else ["--density", str(DENSITY)]
    return measured(command, work, "ours")


def run_theirs(work: Path, name: str, mergekit: Path) -> Cost:
    about = f"parameters: {{weight: {WEIGHT}, density: {DENSITY}}}"
    recipe = f"merge_method: {THEIRS.get(name, name)}\ndtype: bfloat16\n"
    if name == "linear":
        weights = zip("ABC", (0.4, 0.3, 0.3), strict=True)
        recipe += "models:\n" + "".join(
            f"- {{model: {each}, parameters: {{weight: {w}}}}}\n" for each, w in weights
        )
    elif name == "slerp":
        recipe += "base_model: A\nparameters: {t: 0.4}\nmodels: [{model: A}, {model: B}]\n"
    else:
        recipe += "base_model: A\nmodels:\n" + "".join(f"- {{model: {each}, {about}}}\n" for each in "BC")
    (work / "recipe.yml").write_text(recipe)
    command = [mergekit / "bin" / "mergekit-yaml", "recipe.yml", "theirs", "--quiet"]
    return measured([*map(str, command), "--no-write-model-card"], work, "theirs")


def measured(command: list[str], folder: Path, out: str) -> Cost:
    """Run it in the folder, from which `out` is removed first. Raises SystemExit where it fails."""
    subprocess.run(["rm", "-rf", str(folder / out)], check=True)
    before, began, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0
    with (folder / "log.txt").open("w") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        while running.poll() is None:
            peak = max(peak, anonymous(running.pid))
            time.sleep(0.01)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(folder / 'log.txt').read_text()[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(round(cpu, 3), round(time.perf_counter() - began, 3), round(peak / 1024, 1))


def anonymous(process: int) -> int:
    """kB of memory that no file backs, as Linux tells; 0 elsewhere and after the end."""
    try:
        told = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return int((told.partition("RssAnon:")[2].split() or ["0"])[0])


def rounding(work: Path) -> float:
    """The share of elements of the linear merge which have a neighbour in bfloat16 that is nearer to the sum
    in float64."""
    import torch

    from taskheads.merging.files.as_torch import AsTorch
    from taskheads.merging.files.checkpoint import Checkpoint

    run_ours(work, "linear")
    merged, *models = (AsTorch(Checkpoint(work / each)) for each in ("ours", "A", "B", "C"))
    wrong = total = 0
    for name in list(merged)[::9]:
        parts = [w * model[name].double() for w, model in zip((0.4, 0.3, 0.3), models, strict=True)]
        exact, bits = sum(parts[1:], parts[0]), merged[name].view(torch.int16)
        off = (exact - merged[name].double()).abs()
        nearer = [(bits + step).view(torch.bfloat16).double() for step in (-1, 1)]
        wrong += sum(int(((exact - each).abs() < off).sum()) for each in nearer)
        total += bits.numel()
    print(f"linear, elements that are not float64 rounded once: {wrong} of {total:,}")
    return wrong / total


def same_bytes(work: Path) -> bool:
    """Whether one thread and two write the same weights."""
    written = []
    for threads in ("1", "2"):
        command = [sys.executable, "-m", "taskheads", "merge", "--method", "dare_ties", "--base", "A"]
        command += ["--with", "B", "C", "--threads", threads, "--out", "ours", "--quiet"]
        measured(command, work, "ours")
        with (work / "ours" / "model.safetensors").open("rb") as file:
            written.append(hashlib.file_digest(file, "sha256").hexdigest())
    same = len(set(written)) == 1
    print(f"dare_ties from one thread and from two: {'the same' if same else 'OTHER'} bytes")
    return same


def bookkeeping(work: Path) -> float:
    """Seconds of processors that 20,000 tensors of four elements take, in this process."""
    import torch
    from safetensors.torch import save_file

    from taskheads.merging.merging import merge
    from taskheads.merging.plan import Entry, Plan

    tensors = {f"layers.{n // 400}.experts.{n % 400}.w": torch.full((4,), float(n)) for n in range(20_000)}
    for name in ("many", "more"):
        (work / name).mkdir()
        save_file(tensors, work / name / "model.safetensors")
    plan = Plan(method="linear", models=(Entry(path=work / "many"), Entry(path=work / "more")))
    took = report.Seconds.best(
        [report.timed(lambda to=to: merge(plan, work / to))[1] for to in ("first", "second", "third")]
    ).cpu
    print(f"20,000 tensors of four elements, two models: {took:.2f} s of processors\n")
    return took


def adapters() -> dict[str, Any]:
    """Four LoRAs of rank 16 on a layer of 2048 x 2048, merged into the best one of rank 16."""
    import numpy as np
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    from taskheads.merging.adapters import combined
    from taskheads.merging.lora import Factors

    size, rank, weights = 2048, 16, [0.4, 0.3, 0.2, 0.1]
    draw = np.random.default_rng(0)
    parts = [
        (weight, Factors(draw.normal(size=(size, rank)), draw.normal(size=(rank, size)) / size**0.5))
        for weight in weights
    ]
    combined(parts, rank)
    times = [report.timed(lambda: combined(parts, rank))[1] for _ in range(5)]
    ours = report.Seconds.best(times).cpu
    found = combined(parts, rank)
    model: Any = nn.Sequential()
    model.add_module("layer", nn.Linear(size, size, bias=False))
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["layer"])
    peft = get_peft_model(model, config, adapter_name="0")
    for number in range(1, len(parts)):
        peft.add_adapter(str(number), config)
    layer = peft.base_model.model.layer
    for number, (_, each) in enumerate(parts):
        layer.lora_A[str(number)].weight.data = torch.tensor(each.right, dtype=torch.float32)
        layer.lora_B[str(number)].weight.data = torch.tensor(each.left, dtype=torch.float32)
    names = [str(number) for number in range(len(parts))]
    _, took = report.timed(
        lambda: peft.add_weighted_adapter(names, weights, "both", combination_type="svd", svd_rank=rank)
    )
    exact = sum(w * each.left @ each.right for w, each in parts)
    best = np.sqrt((np.linalg.svd(exact, compute_uv=False)[rank:] ** 2).sum())
    theirs = layer.get_delta_weight("both").detach().double().numpy()
    rows = [
        ["taskheads", f"{ours * 1000:.1f}", f"{np.linalg.norm(exact - found.left @ found.right) / best:.6f}"],
        ["peft svd", f"{took.cpu * 1000:.1f}", f"{np.linalg.norm(exact - theirs) / best:.6f}"],
        ["ratio", f"{took.cpu / ours:.0f}", ""],
    ]
    report.show("Four LoRAs, 2048 x 2048, to rank 16", ["", "CPU ms", "error / the least possible"], rows)
    return {"taskheads": ours, "peft": took.cpu}


if __name__ == "__main__":
    main()
