"""From files to files: the same as in memory, complete or not there, and what does not fit is named."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from taskheads.errors import ConfigError, ModelError
from taskheads.merging import engine
from taskheads.merging.files.as_torch import AsTorch
from taskheads.merging.files.checkpoint import Checkpoint
from taskheads.merging.plan import Entry, Plan, Rule, Slice, load_plan
from taskheads.merging.static.averages import Linear, TaskArithmetic
from taskheads.merging.static.merge import Merge
from taskheads.merging.static.sparse import Dare, Ties
from taskheads.merging.tensors import merge_tensors
from tests.merging.models import family, near, read, same, stored, tensors

METHODS = [("linear", {}, Linear()), ("task_arithmetic", {"scale": 0.4}, TaskArithmetic(0.4))]
METHODS += [("ties", {"density": 0.3}, Ties(0.3)), ("dare", {"seed": 5}, Dare(seed=5))]


def plan_of(tmp_path: Path, base: dict, models: list[dict], **options: object) -> Plan:
    """The models on disk, and a plan that merges them."""
    entries = tuple(Entry(path=stored(tmp_path / f"m{i}", model)) for i, model in enumerate(models))
    return Plan(**{"method": "linear", "base": stored(tmp_path / "base", base), "models": entries} | options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "options", "method"), METHODS, ids=[each[0] for each in METHODS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_files_are_merged_as_tensors_in_memory(
    tmp_path: Path, name: str, options: dict, method: Merge, dtype: torch.dtype
) -> None:
    base, models = family(3, dtype)
    plan = plan_of(tmp_path, base, models, method=name, options=options)
    engine.run(plan, tmp_path / "out")
    assert same(read(tmp_path / "out"), merge_tensors(method, models, base))


@pytest.mark.parametrize("method", ["dare_ties", "ties"])
def test_the_same_plan_gives_the_same_bytes_whatever_the_threads(method: str, tmp_path: Path) -> None:
    shapes = {f"layers.{i}.w": (300, 1001) for i in range(4)}  # more than a block each
    base = tensors(0, shapes=shapes)
    plan = plan_of(tmp_path, base, [near(base, 1), near(base, 2)], method=method)
    for out, threads in (("one", 1), ("four", 4)):
        engine.run(plan, tmp_path / out, threads=threads)
    one, four = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("one", "four"))
    assert one == four


def test_shards_in_and_out(tmp_path: Path) -> None:
    base, models = family(2)
    plan = plan_of(tmp_path, base, models, shard_gb=3e-7)  # 300 bytes: every larger tensor has a shard
    engine.run(plan, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == [file.name for file in files]
    assert len(files) > 2
    expected = merge_tensors(Linear(), models)
    assert same(read(tmp_path / "out"), expected)
    assert same(dict(AsTorch(Checkpoint(tmp_path / "out"))), expected)
    again = Plan(method="linear", models=(Entry(path=tmp_path / "out"),))
    engine.run(again, tmp_path / "whole")
    assert same(read(tmp_path / "whole"), expected)
    files[0].unlink()
    with pytest.raises(ModelError, match=rf"names {files[0].name}, which is not there"):
        engine.run(again, tmp_path / "more")


def test_rules_change_the_method_for_some_tensors(tmp_path: Path) -> None:
    base, models = family(2)
    rules = (
        Rule(tensors="layers.*.b", options={"scale": 0.0}),
        Rule(layers="0-0", weights=(1.0, 0.0)),  # type: ignore[arg-type]
        Rule(tensors="norm", method="linear"),
    )
    plan = plan_of(tmp_path, base, models, method="task_arithmetic", rules=rules)
    engine.run(plan, tmp_path / "out")
    found, sums = read(tmp_path / "out"), merge_tensors(TaskArithmetic(), models, base)
    assert torch.equal(found["layers.0.b"], base["layers.0.b"])
    assert torch.equal(found["layers.0.w"], models[0]["layers.0.w"])
    assert torch.equal(found["norm"], merge_tensors(Linear(), models)["norm"])
    assert torch.equal(found["layers.1.w"], sums["layers.1.w"])


def test_the_type_can_be_chosen(tmp_path: Path) -> None:
    base, models = family(2)
    plan = plan_of(tmp_path, base, models, dtype="bfloat16")
    engine.run(plan, tmp_path / "out")
    expected = {name: value.to(torch.bfloat16) for name, value in merge_tensors(Linear(), models).items()}
    assert same(read(tmp_path / "out"), expected)


def test_models_of_another_type_than_the_base(tmp_path: Path) -> None:
    base, (model,) = family(1)
    half = {name: value.bfloat16() for name, value in model.items()}
    engine.run(plan_of(tmp_path, base, [half]), tmp_path / "out")
    assert same(read(tmp_path / "out"), {name: value.float() for name, value in half.items()})


def test_layers_are_stacked(tmp_path: Path) -> None:
    names = {f"h.{i}.w": (3,) for i in range(4)} | {"wte": (4,)}
    a, b = tensors(1, shapes=names), tensors(2, shapes=names)
    for name, model in (("a", a), ("b", b)):
        config = {"n_layer": 4, "layer_types": [f"{name}{i}" for i in range(4)]}
        (stored(tmp_path / name, model) / "config.json").write_text(json.dumps(config))
    slices = (Slice(model=tmp_path / "a", layers="0-2"), Slice(model=tmp_path / "b", layers="1-3"))  # type: ignore[arg-type]
    engine.run(Plan(slices=slices), tmp_path / "out")
    expected = {f"h.{i}.w": a[f"h.{i}.w"] for i in range(3)} | {
        f"h.{i + 2}.w": b[f"h.{i}.w"] for i in (1, 2, 3)
    }
    assert same(read(tmp_path / "out"), expected | {"wte": a["wte"]})
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {"n_layer": 6, "layer_types": ["a0", "a1", "a2", "a1", "a2", "a3"]}
    # What stands in no layer can be of a base.
    engine.run(Plan(slices=slices, base=tmp_path / "b"), tmp_path / "other")
    assert same(read(tmp_path / "other"), expected | {"wte": b["wte"]})
    with pytest.raises(ModelError, match="no layer 4 in a model of 4 layers"):
        engine.run(Plan(slices=(Slice(model=tmp_path / "a", layers=4),)), tmp_path / "no")  # type: ignore[arg-type]


def test_a_prefix_and_a_tied_weight_are_seen_and_a_head_must_be_named(tmp_path: Path) -> None:
    base, models = family(2)
    within = {f"bert.{name}": value for name, value in models[0].items()}
    tied = models[1] | {"lm_head.weight": models[1]["embeddings.weight"].clone()}
    plan = plan_of(tmp_path, base, [within, tied])
    engine.run(plan, tmp_path / "out")
    assert same(read(tmp_path / "out"), merge_tensors(Linear(), models))
    headed = plan_of(tmp_path / "b", base, [within | {"classifier.weight": torch.ones(2, 6)}, models[1]])
    with pytest.raises(ModelError, match=r"m0 has the tensor 'classifier.weight', which .*base has not"):
        engine.run(headed, tmp_path / "no")
    engine.run(headed.model_copy(update={"drop": ("classifier.*",)}), tmp_path / "dropped")
    assert same(read(tmp_path / "dropped"), merge_tensors(Linear(), models))


def test_what_does_not_fit_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    base, (model,) = family(1)
    wide = model | {"embeddings.weight": torch.ones(13, 6)}
    less = {name: value for name, value in model.items() if name != "norm"}
    counted = {"steps": torch.tensor([3])}
    cases = [
        (base, wide, r"'embeddings.weight' is \[13, 6\] in .*m0 and \[11, 6\] in .*base; are their vocab"),
        (base, less, r"m0 lacks the tensor 'norm', which .*base has"),
        (base | counted, model | {"steps": torch.tensor([4])}, "'steps' is of I64, and differs"),
    ]
    for number, (zero, other, says) in enumerate(cases):
        plan = plan_of(tmp_path / str(number), zero, [other])
        with pytest.raises(ModelError, match=says):
            engine.run(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    base, models = family(1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match="is there already"):
        engine.run(plan_of(tmp_path, base, models), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_interrupted_merge_leaves_nothing(tmp_path: Path) -> None:
    base, models = family(1)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(plan_of(tmp_path, base, models), tmp_path / "out", progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "m0"]


def test_a_disk_without_the_room_is_found_out_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, models = family(1)
    plan = plan_of(tmp_path, base, models)
    free = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(ModelError, match="100 bytes free; the merged model takes 704"):
        engine.run(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def broken(path: Path, how: str) -> None:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    if how == "cut":
        path.write_bytes(data[:-1])
    elif how == "header":
        path.write_bytes(data[:8] + b"x" + data[9:])
    elif how == "short":
        path.write_bytes(data[:5])
    else:
        header["norm"] |= {"shape": [7]} if how == "shape" else {"dtype": "F3"}
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("cut", "is cut off: '.*' ends at byte"),
        ("header", "its header cannot be read"),
        ("short", "is cut off or no safetensors file"),
        ("shape", "the tensor 'norm' has not the bytes that its shape needs"),
        ("dtype", "what it says of the tensor 'norm' cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_its_tensor(tmp_path: Path, how: str, says: str) -> None:
    base, models = family(1)
    plan = plan_of(tmp_path, base, models)
    broken(tmp_path / "m0" / "model.safetensors", how)
    with pytest.raises(ModelError, match=rf"m0/model.safetensors.*{says}"):
        engine.run(plan, tmp_path / "out")


def test_a_checkpoint_is_what_the_safetensors_library_wrote(tmp_path: Path) -> None:
    types = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    values = {str(each): (torch.arange(6).view(2, 3) % 2).to(each) for each in types}
    values |= {"empty": torch.empty(0, 3), "one": torch.tensor(2.5)}
    save_file(values, tmp_path / "x.safetensors", {"made": "by hand"})
    found = Checkpoint(tmp_path / "x.safetensors")
    assert same(dict(AsTorch(found)), values)
    assert found.metadata == {"made": "by hand"}


SCRIPT = """
import pathlib, sys
from taskheads.merging import engine
from taskheads.merging.plan import Entry, Plan

def anonymous():
    return int(pathlib.Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])

def merge(base, model, out, **more):
    engine.run(Plan(method="ties", base=base, models=(Entry(path=model),) * 3), pathlib.Path(out), **more)

merge("small", "small", "first")  # what is compiled or loaded once
before, peak = anonymous(), [0]
merge("base", "model", "second", progress=lambda *_: peak.append(anonymous()))
print(max(peak) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the operating system does not tell")
def test_a_merge_takes_a_few_blocks_of_memory(tmp_path: Path) -> None:
    """Measured by the operating system, in a process of its own."""
    base = tensors(0, torch.bfloat16, {f"layers.{i}.w": (2000, 1000) for i in range(3)})
    stored(tmp_path / "base", base)
    stored(tmp_path / "model", near(base, 1))
    stored(tmp_path / "small", tensors(0, torch.bfloat16))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    # The four inputs have 12 MB each, a tensor of each in float64 16 MB. A block takes 256 kB, and of what
    # the selection of the largest gathers there is 8 MB at most.
    assert int(done.stdout) < 16_000


PLAN = """
method: ties
options: {density: 0.3}
base: base
models:
  - m0
  - {path: m1, weight: 0.5}
rules:
  - {layers: 0-3, method: linear, weights: [1, 0]}
out: merged
"""


def test_a_plan_is_read(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "base").mkdir()
    plan = load_plan(tmp_path / "plan.yaml")
    assert plan.base == tmp_path / "base"
    assert [(entry.path.name, entry.weight) for entry in plan.models] == [("m0", 1.0), ("m1", 0.5)]
    assert plan.ways()[plan.way_of("layers.3.w")] == (Linear(), (1.0, 0.0))
    assert plan.ways()[plan.way_of("layers.4.w")] == (Ties(0.3), (1.0, 0.5))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("method: ties", "metod: ties", "line 2: metod: unknown key 'metod' .did you mean 'method'"),
        ("weight: 0.5", "wieght: 0.5", "line 7: .*unknown key 'wieght' .did you mean 'weight'"),
        ("0-3", "3-0", "line 9: .*ends before it begins"),
        ("out: merged", "dtype: int8", "line 10: dtype: 'int8' is none of"),
        ("method: ties", "method: tise", "no merging method is called 'tise' .did you mean 'ties'"),
        ("method: ties", "method: lora", "no merging method is called 'lora'"),
        ("density: 0.3", "density: 3", "between 0 and 1"),
        ("[1, 0]", "[1]", "1 weights for 2 models"),
        ("base: base", "", "name the base"),
        ("method: ties", "method: fisher", "needs the fisher statistics|no option"),
    ],
)
def test_a_plan_that_cannot_be_meant(tmp_path: Path, old: str, new: str, says: str) -> None:
    (tmp_path / "plan.yaml").write_text(PLAN.replace(old, new))
    with pytest.raises(ConfigError, match=says):
        load_plan(tmp_path / "plan.yaml").check()
