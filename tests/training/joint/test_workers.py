"""Two processes compute one process's steps: the same losses, whatever rows each of them has."""

from __future__ import annotations

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

CHILD = """
import json, pathlib, sys
import torch
torch.set_num_threads(1)
from taskheads.backbone.backbone import Backbone
from tests.training.joint.planted import KINDS, run_of, without_dropout
folder, said = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
run = without_dropout(run_of(said, tuple(KINDS), backbone=Backbone.load(folder, limit=32)))
course = run.train()
weights = {name: each.detach().double().sum().item() for name, each in run.weights.items()}
print(json.dumps({"rank": run.workers.rank, "losses": course.losses, "weights": weights, "dev": course.dev}))
"""


def _processes(count: int, folder: Path, said: dict[str, Any]) -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).resolve().parents[3]
    # What torchrun and `accelerate launch` set.
    base = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    base |= {"WORLD_SIZE": str(count)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), json.dumps(said)],
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


@pytest.mark.parametrize("said", [{}, {"balance": "upgrad"}], ids=["plain", "balanced"])
def test_two_processes_give_the_losses_of_one(said: dict[str, Any], tmp_path: Path) -> None:
    if said:
        pytest.importorskip("torchjd")
    tiny_backbone().save(tmp_path / "backbone")
    said = said | {"steps": 6, "tokens": 128}
    (alone,) = _processes(1, tmp_path / "backbone", said)
    both = _processes(2, tmp_path / "backbone", said)
    assert both[0]["weights"] == both[1]["weights"]
    for name, values in alone["losses"].items():
        found = [value for _, value in both[0]["losses"][name]]
        assert found == pytest.approx([value for _, value in values], rel=2e-4, abs=2e-4), name


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
