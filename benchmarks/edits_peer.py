"""What `edits.py` measures beside PEFT: the `adapters` library, in an environment of its own.

It asks for transformers 4, which cannot be installed beside the product's:

    python -m venv ~/venvs/adapters
    ~/venvs/adapters/bin/pip install adapters==1.3.0 torch==2.13.0 threadpoolctl
    python benchmarks/edits.py --adapters ~/venvs/adapters

That runs this file, with texts as a JSON list on its input; it prints, as JSON, the seconds of its sides. The
texts are padded, sorted by length; LoRAs as in `edits.py`.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from report import Seconds, timed, use_threads


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", help="folder of the encoder")
    for name in ("threads", "rounds", "rank", "tasks", "asked"):
        options.add_argument(f"--{name}", type=int, required=True)
    options.add_argument("--top", type=int, nargs="+", required=True, help="layers of those asked together")
    chosen = options.parse_args(arguments)
    use_threads(chosen.threads)
    import torch
    from adapters import BatchSplit, Parallel
    from transformers import AutoModel, AutoTokenizer

    texts = sorted(json.load(sys.stdin), key=len)
    batch = AutoTokenizer.from_pretrained(chosen.model)(
        texts, padding=True, truncation=True, return_tensors="pt"
    )
    bare = AutoModel.from_pretrained(chosen.model, dtype=torch.float32).eval()
    each, left = divmod(len(texts), chosen.tasks)
    if left:
        raise SystemExit(f"{len(texts)} texts are no multiple of {chosen.tasks} tasks")
    mixed, tasks = with_loras(bare, chosen.tasks, chosen.rank, leave_out=[])
    mixed.active_adapters = BatchSplit(*tasks, batch_sizes=each)
    below = [layer for layer in range(len(bare.encoder.layer)) if layer not in chosen.top]
    one, asked = with_loras(bare, chosen.asked, chosen.rank, leave_out=below)
    four = copy.deepcopy(one)
    one.active_adapters, four.active_adapters = asked[0], Parallel(*asked)
    sides = {"bare": bare, "mixed": mixed, "one": one, "four": four}
    taken: dict[str, list[Seconds]] = {name: [] for name in sides}
    with torch.inference_mode():
        for model in sides.values():
            model(**batch)
        for _ in range(chosen.rounds):
            for name, model in sides.items():
                taken[name].append(timed(partial(model, **batch))[1])
    print(json.dumps({name: asdict(Seconds.best(each)) for name, each in taken.items()}))


def with_loras(bare: Any, count: int, rank: int, leave_out: list[int]) -> tuple[Any, list[str]]:
    """A copy of the model with LoRAs other than zero on queries and values, and their names."""
    import adapters
    import torch

    model = copy.deepcopy(bare)
    adapters.init(model)
    names = [f"task{number}" for number in range(count)]
    config = adapters.LoRAConfig(r=rank, alpha=16, attn_matrices=["q", "v"], leave_out=leave_out)
    for name in names:
        model.add_adapter(name, config=config)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.eval(), names


if __name__ == "__main__":
    main()
