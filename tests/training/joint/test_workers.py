"""Two processes compute one process's steps: the same losses, whatever rows each of them has; and they stop
after the same one."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskheads.training.joint.workers import Workers
from tests.small_models import tiny_backbone
from tests.training.joint.planted import KINDS, fresh

SAID: dict[str, dict[str, Any]] = {
    "plain": {},
    "balanced": {"balance": "upgrad"},
    "uncertainty": {"weighting": "uncertainty"},
    "average": {"weighting": "dynamic_weight_average"},
}
if importlib.util.find_spec("torchjd") is None:
    del SAID["balanced"]

# All runs of one process, one after the other: to start it takes longer than they do.
CHILD = """
import json, pathlib, signal, sys
import torch
torch.set_num_threads(1)
from taskheads.backbone.backbone import Backbone
from taskheads.errors import TrainingError
from taskheads.training.joint.workers import Workers
from tests.training.joint.planted import KINDS, run_of, without_dropout

folder, all_said = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])

def ended(said):
    said = said | {"steps": 6, "tokens": 128}
    run = without_dropout(run_of(said, tuple(KINDS), backbone=Backbone.load(folder, limit=32)))
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

told = {name: ended(said) for name, said in all_said.items()}
if Workers.here().count > 1:
    told["ctrl c"] = stopped()
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
