"""Checkpoints in, a checkpoint out: tensor by tensor, in bounded memory, all or nothing."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskheads.errors import ModelError
from taskheads.merging.aligning import aligned, stacked, without
from taskheads.merging.arithmetic import all_finite
from taskheads.merging.files.checkpoint import RECIPE, SUMS, Checkpoint
from taskheads.merging.files.stored import FLOATS, Stored
from taskheads.merging.files.writing import Form, Writer
from taskheads.merging.lora import CONFIG as ADAPTER
from taskheads.merging.lora import Adapted, Adapter
from taskheads.merging.plan import Plan
from taskheads.merging.static.merge import Group, Map, Merge, depth, unchanged

Progress = Callable[[str, int, int], None]
# What of a model's folder is not weights: its configuration, tokenizer and preprocessing.
_BESIDE = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
_NOT_BESIDE = {RECIPE, "taskheads.json"}
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def run(plan: Plan, out: Path, *, threads: int = 1, progress: Progress | None = None) -> None:
    """Merge checkpoints into the folder `out`, which is not there yet or empty.

    It gets weights (sharded above `plan.shard_gb`), configuration and tokenizer of the base (without one, of
    the first model), and `merge.json` with the plan and the CRC-32 of every tensor. Anonymous memory is a few
    blocks a thread; methods that need whole tensors hold those of one name. The same plan gives the same
    bytes, whatever `threads` is. The folder appears when it is complete.

    Raises ModelError for inputs that cannot be read or do not fit together, a disk without the room, and a
    folder that holds something.
    """
    with appearing(out) as folder, _uncollected():
        sums = merge_weights(plan, folder, threads=threads, progress=progress)
        copy_beside(plan, folder)
        about = {
            "taskheads": importlib.metadata.version("taskheads"),
            "plan": plan.model_dump(mode="json", exclude={"out"}, exclude_defaults=True),
            SUMS: sums,
        }
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in about.items())
        (folder / RECIPE).write_text("{" + ",\n ".join(lines) + "}\n", encoding="utf-8")


def merge_weights(
    plan: Plan, folder: Path, *, threads: int = 1, progress: Progress | None = None
) -> dict[str, int]:
    """Write the merged weights of a plan to a folder that is there; see `run`. The CRC-32 of each tensor."""
    base, models, statistics = _opened(plan)
    like = models[0] if base is None else base
    dtype = {name: stored for stored, name in FLOATS.items()}.get(plan.dtype or "")
    forms = {}
    for name, tensor in like.items():
        forms[name] = Form(dtype if dtype and tensor.floats else tensor.dtype, tensor.shape)
    layers, total, done = depth(like), sum(form.bytes for form in forms.values()), 0
    ways = plan.ways()
    way_of = {name: plan.way_of(name) for name in forms}
    called = [str(entry.path) for entry in plan.models] or ["the stack of layers"]
    called += [] if base is None else [str(plan.base)]

    def group_of(name: str) -> Group:
        return Group(
            name,
            None if base is None else base[name],
            [model[name] for model in models],
            ways[way_of[name]][1] or (1.0,),
            layers,
            [each.get(name) for each in statistics],
        )

    def surveyed(way: int, each: Map) -> Merge:
        names = (name for name in forms if way_of[name] == way and like[name].floats)
        return ways[way][0].surveyed(map(group_of, names), each)

    def merge_one(name: str) -> int:
        group, form = group_of(name), forms[name]
        if not group.like.floats:
            writer.put(name, 0, unchanged(group).raw)
        else:
            for start, raw in merges[way_of[name]].merged(group, form.dtype):
                if not all_finite(raw, form.dtype):
                    raise _not_finite(group, called, form.dtype)
                writer.put(name, start, raw)
        _check(group, called)
        return form.bytes

    with Writer(folder, forms, shard_bytes=round(plan.shard_gb * 1e9)) as writer, _mapping(threads) as each:
        merges = [surveyed(way, each) for way in range(len(ways))]
        for written in each(merge_one, forms):
            done += written
            if progress:
                progress("merging", done, total)
    return writer.sums


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage in cycles meanwhile. A merge makes none, and with many small tensors the search
    takes a third of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def _mapping(threads: int) -> Iterator[Map]:
    """A `map` over so many threads, which stops early at an error. Tensors are the unit of parallel work."""
    if threads == 1:
        yield map
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _opened(
    plan: Plan,
) -> tuple[Mapping[str, Stored] | None, list[Mapping[str, Stored]], list[Mapping[str, Stored]]]:
    """Base, models and statistics of a plan, under the same names."""
    if plan.slices:
        files = {each.model: without(Checkpoint(each.model), plan.drop) for each in plan.slices}
        rest = files[plan.slices[0].model] if plan.base is None else Checkpoint(plan.base)
        return None, [stacked([(files[each.model], *each.layers) for each in plan.slices], rest)], []
    base = None if plan.base is None else without(Checkpoint(plan.base), plan.drop)
    models: list[Mapping[str, Stored]] = []
    for entry in plan.models:
        if base is not None and (entry.path / ADAPTER).exists():
            models.append(Adapted(Adapter(entry.path), base))
            continue
        model = without(Checkpoint(entry.path), plan.drop)
        like = base if base is not None else models[0] if models else model
        called = plan.models[0].path if plan.base is None else plan.base
        models.append(aligned(model, like, str(entry.path), str(called)))
    statistics = [Checkpoint(entry.statistics) for entry in plan.models if entry.statistics is not None]
    return base, models, list(statistics)


def _check(group: Group, called: Sequence[str]) -> None:
    """Raise ModelError, with the tensor and its model, where an input is not what was once written."""
    inputs = [*group.models] if group.base is None else [*group.models, group.base]
    for stored, model in zip(inputs, called, strict=True):
        if stored.altered:
            raise ModelError(
                f"{model} was altered: the tensor {group.name!r} has not the checksum of its {RECIPE}"
            )


def _not_finite(group: Group, called: Sequence[str], dtype: str) -> ModelError:
    """Why a merged tensor has an element that is no finite number."""
    inputs = [*group.models] if group.base is None else [*group.models, group.base]
    for stored, model in zip(inputs, called, strict=True):
        if not all_finite(stored.raw, stored.dtype):
            return ModelError(f"{model}: the tensor {group.name!r} holds an element that is no finite number")
    return ModelError(f"the merged tensor {group.name!r} has elements too large for {FLOATS[dtype]}")


def copy_beside(plan: Plan, folder: Path) -> None:
    """Configuration and tokenizer of the base, as the merged weights need them."""
    first = plan.slices[0].model if plan.slices else plan.models[0].path
    source = plan.base or first
    if not source.is_dir():
        return
    for path in sorted({path for pattern in _BESIDE for path in source.glob(pattern)}):
        if path.name not in _NOT_BESIDE and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    file = folder / "config.json"
    if not file.exists() or not (plan.slices or plan.dtype):
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    if plan.dtype:
        config.pop("torch_dtype", None)
        config["dtype"] = plan.dtype
    if plan.slices:
        _stack_config(config, plan)
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _stack_config(config: dict[str, Any], plan: Plan) -> None:
    """The number of layers, and what is listed layer by layer, for layers on top of each other."""
    taken = [layer for each in plan.slices for layer in range(each.layers[0], each.layers[1] + 1)]
    known = [key for key in _LAYER_COUNTS if key in config]
    if not known:
        raise ModelError(f"config.json does not say how many layers there are (none of {_LAYER_COUNTS})")
    if isinstance(config.get("layer_types"), list):
        config["layer_types"] = [config["layer_types"][layer] for layer in taken]
    config[known[0]] = len(taken)


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder under another name, which becomes `out` when all went well and goes when not.

    Raises ModelError where `out` is there and no empty folder.
    """
    out = Path(out).absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ModelError(f"{out} is there already; choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    begun = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        begun.chmod(0o755)
        yield begun
        os.replace(begun, out)
    finally:
        shutil.rmtree(begun, ignore_errors=True)
