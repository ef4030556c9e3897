"""LoRA adapters merged as adapters: by their factors, without ever making a full matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from taskheads.errors import ConfigError, ModelError
from taskheads.merging import engine
from taskheads.merging.arithmetic import narrowed
from taskheads.merging.files.writing import Form, Writer
from taskheads.merging.lora import CONFIG, WEIGHTS, Adapter, Factors, unwrapped
from taskheads.merging.plan import Plan
from taskheads.merging.static.averages import Linear, TaskArithmetic
from taskheads.merging.static.merge import Group


def merge(plan: Plan, out: Path, *, threads: int = 1, progress: engine.Progress | None = None) -> None:
    """Merge LoRA adapters.

    Without a base into an adapter, which appears in the folder `out`: each map's difference is Σ wₜ sₜ Bₜ Aₜ,
    by the weights of `linear` or `task_arithmetic`, from the factors alone. Its rank is the sum of theirs and
    it is exact; with `plan.rank` it is the nearest of that rank. With a base each adapter is put onto it, and
    whole models are merged, by any method.

    Raises ConfigError for another method without a base, ModelError for adapters that do not fit together.
    """
    if plan.base is not None:
        engine.run(plan, out, threads=threads, progress=progress)
        return
    ways = plan.ways()
    for method, _ in ways:
        if not isinstance(method, Linear | TaskArithmetic):
            name = plan.method
            raise ConfigError(f"{name} looks at single weights, which adapters do not have: name the base")
    adapters = [Adapter(entry.path) for entry in plan.models]
    _check_alike(adapters)
    merged: dict[str, Factors] = {}
    for module in sorted({module for each in adapters for module in each.modules}):
        method, weights = ways[plan.way_of(module)]
        assert isinstance(method, Linear | TaskArithmetic)
        shares, _ = method.mixture(Group(module, None, (), weights))
        parts = [
            (share, each.factors(module))
            for share, each in zip(shares, adapters, strict=True)
            if module in each.modules
        ]
        merged[module] = combined(parts, plan.rank)
    with engine.appearing(out) as folder:
        _write(folder, merged, adapters[0])


def combined(parts: Sequence[tuple[float, Factors]], rank: int | None = None) -> Factors:
    """Σ wₜ · leftₜ rightₜ as one product: exact with None, else the nearest matrix of that rank.

    By the QR decompositions of both stacks of factors and the SVD of a small matrix (of the sum of the
    ranks): what the SVD of the full matrix would give, at the cost of its factors.
    """
    left = np.concatenate([weight * each.left for weight, each in parts], 1)
    right = np.concatenate([each.right for _, each in parts], 0)
    if rank is None or rank >= left.shape[1]:
        return Factors(left, right)
    (out, above), (into, below) = np.linalg.qr(left), np.linalg.qr(right.T)
    u, values, v = np.linalg.svd(above @ below.T)
    root = np.sqrt(values[:rank])
    return Factors(out @ (u[:, :rank] * root), (root[:, None] * v[:rank]) @ into.T)


def _check_alike(adapters: Sequence[Adapter]) -> None:
    first = adapters[0]
    for each in adapters:
        if each.decomposed:
            raise ModelError(f"{each.folder} is DoRA, whose norms are those of whole weights: name the base")
        for option in ("fan_in_fan_out", "base_model_name_or_path", "task_type"):
            if each.config.get(option) != first.config.get(option):
                raise ModelError(
                    f"{each.folder} and {first.folder} differ in {option}: {each.config.get(option)!r} and "
                    f"{first.config.get(option)!r}"
                )


def _write(folder: Path, merged: Mapping[str, Factors], like: Adapter) -> None:
    """An adapter's folder; every factor has its scale within, so that alpha is the rank."""
    dtype = like.dtype
    tensors = {}
    for module, factors in merged.items():
        tensors[f"{module}.lora_A.weight"] = factors.right
        tensors[f"{module}.lora_B.weight"] = factors.left
    forms = {name: Form(dtype, each.shape) for name, each in tensors.items()}
    with Writer(folder, forms, name=WEIGHTS) as writer:
        for name, each in tensors.items():
            writer.put(name, 0, narrowed(np.ascontiguousarray(each).reshape(-1), dtype))
    ranks = {unwrapped(module): len(each.right) for module, each in merged.items()}
    config = like.config | {"r": max(ranks.values()), "lora_alpha": max(ranks.values()), "use_rslora": False}
    # A rank of its own says nothing of alpha: the two patterns go together.
    own = {name: rank for name, rank in ranks.items() if rank != config["r"]}
    config |= {"rank_pattern": own, "alpha_pattern": own, "target_modules": sorted(ranks)}
    config |= {"layers_to_transform": None, "layers_pattern": None, "init_lora_weights": True}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
