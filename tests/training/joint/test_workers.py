"""Two processes compute one process's steps: the same losses, whatever rows each of them has; and they stop
after the same one."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskheads.backbone.backbone import Backbone
from taskheads.errors import ConfigError
from taskheads.tasks.suite import Suite
from taskheads.training.fit import fit
from taskheads.training.joint.checkpoints import Checkpoint, OnDisk
from taskheads.training.joint.recipe import Recipe
from taskheads.training.joint.resuming import restore
from taskheads.training.joint.sharding import check_shard
from taskheads.training.joint.workers import Workers
from tests.small_models import tiny_backbone
from tests.training.joint.planted import KINDS, fresh, planted, run_of, without_dropout

SAID: dict[str, dict[str, Any]] = {
    "plain": {},
    "balanced": {"balance": "upgrad"},
    "uncertainty": {"weighting": "uncertainty"},
    "average": {"weighting": "dynamic_weight_average"},
    "cut up": {"shard": True, "average": 0.9, "clip": 0.05, "frozen_layers": 1},
    # Steps of one row, in two parts: a process without rows has to take part.
    "cut up, few rows": {"shard": True, "tokens": 16, "accumulate": 2},
}
if importlib.util.find_spec("torchjd") is None:
    del SAID["balanced"]

# All runs of one process, one after the other: to start it takes longer than they do.
CHILD = """
import json, pathlib, shutil, signal, sys
import torch
torch.set_num_threads(1)
from taskheads.backbone.backbone import Backbone
from taskheads.errors import TrainingError
from taskheads.training.joint.sharding import held
from taskheads.training.joint.workers import Workers
from tests.training.joint.planted import KINDS, run_of, without_dropout

folder, all_said = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])

def made(said, **more):
    said = {"steps": 6, "tokens": 128} | said
    return without_dropout(run_of(said, tuple(KINDS), backbone=Backbone.load(folder, limit=32), **more))

def ended(run, said):
    course = run.train()
    weights = {name: each.detach().double().sum().item() for name, each in run.weights.items()}
    told = {"losses": course.losses, "weights": weights, "dev": course.dev}
    if "weighting" in said:
        told["weighting"] = run.joining.weighting.weights().tolist()
    return told

def stopped():
    def stop(course):
        if course.step == 3 and run.workers.rank == 1:
            signal.raise_signal(signal.SIGINT)
    run = run_of({}, folder=folder / "kept", backbone=Backbone.load(folder, limit=32), watch=stop)
    try:
        run.train()
    except TrainingError as error:
        return str(error)

def bytes_held(run):
    "Of the backbone, of what the optimiser keeps of it, and of both were they whole."
    weights = [each for name, each in run.weights.items() if name.startswith("backbone.")]
    kept = [run.optimizer.state.get(each, {}) for each in weights]
    states = [each for state in kept for each in state.values() if each.ndim]
    own = [sum(held(each).nbytes for each in some) for some in (weights, states)]
    return own + [sum(4 * each.numel() for each in some) for some in (weights, states)]

def stopped_and_resumed(said):
    sizes = []
    def stop(course):
        if course.step == 3:
            sizes.append(bytes_held(run))
            sizes.append(sum(each.nbytes for each in run.whole.model.parameters() if each.requires_grad))
            signal.raise_signal(signal.SIGINT)
    run = made(said, folder=folder / "cut", watch=stop)
    try:
        run.train()
    except TrainingError:
        if run.workers.rank == 0:
            shutil.copytree(folder / "cut", folder / "cut then")
    return ended(made(said, folder=folder / "cut"), said) | {"sizes": sizes}

told = {name: ended(made(said), said) for name, said in all_said.items()}
if Workers.here().count > 1:
    told["ctrl c"] = stopped()
    told["cut up and resumed"] = stopped_and_resumed(all_said["cut up"])
print(json.dumps(told))
"""


def _processes(count: int, folder: Path) -> list[dict[str, Any]]:
    """What each of so many processes, that train together, tells of its runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).resolve().parents[3]
    # What torchrun and `accelerate launch` set.
    base = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    base |= {"WORLD_SIZE": str(count)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), json.dumps(SAID)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]
    told = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0] * count
    return [json.loads(lines.splitlines()[-1]) for lines in told]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers") / "backbone"
    tiny_backbone().save(folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    return _processes(1, folder)[0]


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    return _processes(2, folder)


@pytest.mark.parametrize("name", SAID)
def test_two_processes_give_the_losses_of_one(
    name: str, alone: dict[str, Any], both: list[dict[str, Any]]
) -> None:
    one, first, second = alone[name], both[0][name], both[1][name]
    assert first["weights"] == second["weights"]
    for task, values in one["losses"].items():
        found = [value for _, value in first["losses"][task]]
        assert found == pytest.approx([value for _, value in values], rel=2e-4, abs=2e-4), task


@pytest.mark.parametrize("name", ["uncertainty", "average"])
def test_two_processes_learn_the_weights_of_one(
    name: str, alone: dict[str, Any], both: list[dict[str, Any]]
) -> None:
    one, first, second = (told[name]["weighting"] for told in (alone, *both))
    assert first == second == pytest.approx(one, abs=1e-4)
    assert max(abs(weight - 1) for weight in one) > 1e-3


def test_a_backbone_cut_up_goes_on_from_its_checkpoint(both: list[dict[str, Any]]) -> None:
    for told in both:
        resumed = {key: each for key, each in told["cut up and resumed"].items() if key != "sizes"}
        assert resumed == told["cut up"]


def test_each_process_holds_half_of_a_backbone_cut_up(both: list[dict[str, Any]]) -> None:
    for told in both:
        (weights, states, all_weights, all_states), elsewhere = told["cut up and resumed"]["sizes"]
        # AdamW keeps two numbers for each weight that has a gradient.
        assert states > weights
        assert weights == pytest.approx(all_weights / 2, rel=0.05)
        assert states == pytest.approx(all_states / 2, rel=0.05)
        assert elsewhere == 0


def test_what_many_processes_kept_one_goes_on_with(
    folder: Path, alone: dict[str, Any], both: list[dict[str, Any]]
) -> None:
    kept = folder / "cut then" / "step-00000003"
    state = json.loads((kept / "state.json").read_text())["state"]
    said = SAID["cut up"] | {"steps": 6, "tokens": 128}
    run = without_dropout(run_of(said, tuple(KINDS), backbone=Backbone.load(folder, limit=32)))
    restore(run, Checkpoint(3, OnDisk(kept / "tensors.safetensors"), state))
    for task, values in run.train().losses.items():
        expected = [value for _, value in alone["cut up"]["losses"][task]]
        assert [value for _, value in values] == pytest.approx(expected, rel=2e-4, abs=2e-4), task


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"balance": "pcgrad"}, "balance = 'pcgrad', which compares whole gradients"),
        ({"optimizer": "adafactor"}, "optimizer = 'adafactor', which looks at whole matrices"),
        ({"precision": "float16"}, "precision = 'float16', which looks at all gradients at once"),
    ],
)
def test_what_needs_whole_gradients_is_not_cut_up(said: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Recipe.of({"shard": True} | said)


def test_what_cannot_be_cut_up_is_said_before_anything_starts() -> None:
    recipe, two = Recipe(shard=True), Workers(0, 2)
    same = tiny_backbone()
    same.layout = replace(same.layout, layers=same.layout.layers[:1] * 2)
    with pytest.raises(ConfigError, match="this is one; start them by torchrun"):
        check_shard(recipe, tiny_backbone(), [], Workers())
    with pytest.raises(ConfigError, match="task 'topic' asks for an edit"):
        check_shard(recipe, tiny_backbone(), ["topic"], two)
    with pytest.raises(ConfigError, match="share their weights"):
        check_shard(recipe, same, [], two)
    check_shard(recipe, tiny_backbone(), [], two)
    check_shard(Recipe(), same, ["topic"], Workers())
    tasks = {"topic": planted("topic")}
    with pytest.raises(ConfigError, match="this is one"):
        fit(Suite(tasks, "tiny", 0), backbone=tiny_backbone(), training={"shard": True})


def test_ctrl_c_in_one_process_stops_all_after_the_same_step(
    folder: Path, both: list[dict[str, Any]]
) -> None:
    first, second = (told["ctrl c"] for told in both)
    assert first == second
    assert "stopped after step 3 of 12" in first
    assert (folder / "kept" / "step-00000003").is_dir()


def test_every_row_goes_to_one_process_and_their_loads_are_even() -> None:
    _, heads, rows, _ = fresh(tuple(KINDS))
    drawn = {name: np.arange(20) for name in rows}
    shares = [Workers(rank, 2).share(drawn, rows, heads) for rank in range(2)]
    loads = []
    for name in drawn:
        dealt = [share[name].tolist() for share in shares if name in share]
        assert sorted(row for part in dealt for row in part) == list(range(20))
        # Where rows are compared with each other, they stay together.
        assert heads[name].additive or len(dealt) == 1
    for share in shares:
        loads.append(sum(int(rows[name].tokens[mine].sum()) for name, mine in share.items()))
    assert max(loads) < 1.2 * min(loads)
