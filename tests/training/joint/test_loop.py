"""The loop: it learns, its numbers do not depend on how a step is cut up, and nothing that happens to it is
lost."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from taskheads.errors import ConfigError, TrainingError
from taskheads.training.joint.loop import FEWEST_STEPS, Run
from taskheads.training.joint.optimiser import MovingAverage, layer_of_weights, rate_at
from taskheads.training.joint.recipe import Recipe
from taskheads.training.joint.rows import TaskRows
from tests.small_models import tiny_backbone
from tests.training.joint.planted import numbers, run_of, without_dropout


def test_all_losses_fall() -> None:
    run = run_of({"steps": 150, "head_lr": 1e-2, "evaluations": 2})
    for values in run.train().losses.values():
        losses = [value for _, value in values]
        assert sum(losses[-20:]) < 0.9 * sum(losses[:20])


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    first, second, other = run_of({}), run_of({}), run_of({}, seed=1)
    for run in (first, second, other):
        run.train()
    assert numbers(first) == numbers(second)
    assert first.course.losses != other.course.losses


def test_minutes_are_planned_for_steps_and_for_looks_at_dev() -> None:
    run = run_of({"steps": None, "minutes": 2.0, "epochs": 1e6, "evaluations": 5})
    run.course.step = FEWEST_STEPS
    run._replan([9.0] + [0.1] * 5)
    read = sum(
        int(TaskRows.of(run.backbone, type(run.heads[name]), run.heads[name].task, rows).tokens.sum())
        for name, rows in run.dev.items()
    )
    looks = 5 * (0.4 * read / run.recipe.tokens + 1)
    assert 0 < looks < 300
    assert run.course.planned + looks == pytest.approx(0.95 * 1200, abs=0.2 * looks)


def test_the_run_leaves_the_generator_of_others_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    run = run_of({"steps": 2})
    torch.manual_seed(5)
    run.train()
    assert torch.equal(torch.rand(3), expected)


def test_a_step_in_parts_is_the_same_step() -> None:
    whole, parts = (without_dropout(run_of({"steps": 5, "accumulate": k})) for k in (1, 3))
    whole.train(), parts.train()
    for name, values in whole.course.losses.items():
        assert [v for _, v in parts.course.losses[name]] == pytest.approx([v for _, v in values], rel=1e-4)
    for name, each in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], each, rtol=1e-3, atol=1e-4)


def test_bfloat16_takes_nearly_the_same_steps() -> None:
    exact, rough = (without_dropout(run_of({"steps": 6} | said)) for said in ({}, {"precision": "bfloat16"}))
    exact.train(), rough.train()
    assert all(each.dtype == torch.float32 for each in rough.weights.values())
    for name, values in exact.course.losses.items():
        found = [value for _, value in rough.course.losses[name]]
        assert found == pytest.approx([value for _, value in values], rel=0.05)
    assert exact.course.losses != rough.course.losses


@pytest.mark.parametrize("said", [{}, {"average": 0.9}, {"optimizer": "adafactor"}, {"sampling": "dynamic"}])
@pytest.mark.parametrize("stop", [2, 7])
def test_a_resumed_run_ends_with_the_numbers_of_an_uninterrupted_one(
    said: dict[str, Any], stop: int, tmp_path: Path
) -> None:
    whole = run_of(said)
    whole.train()

    def interrupt(course: Any) -> None:
        if course.step == stop:
            raise KeyboardInterrupt

    with pytest.raises(TrainingError, match=rf"stopped after step {stop} of 12.*--resume"):
        run_of(said, folder=tmp_path, watch=interrupt).train()
    resumed = run_of(said, folder=tmp_path)
    resumed.train()
    assert numbers(resumed) == numbers(whole)


CHILD = """
import sys, pathlib
from taskheads.training.joint import loop
from tests.training.joint.planted import run_of, numbers
loop._SECONDS_BETWEEN_CHECKPOINTS = 0.0
def watch(course):
    print(course.step, flush=True)
import torch
torch.set_num_threads(1)
from taskheads.backbone.backbone import Backbone
backbone = Backbone.load(sys.argv[2], limit=32)
run = run_of({"steps": 30}, folder=pathlib.Path(sys.argv[1]), backbone=backbone, watch=watch)
run.train()
import hashlib
print("done", hashlib.sha256(repr(sorted(numbers(run).items())).encode()).hexdigest(), flush=True)
"""


def _child(folder: Path) -> subprocess.Popen:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(folder.parent / "backbone")],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        cwd=root,
    )


def test_a_run_killed_at_any_moment_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    tiny_backbone().save(tmp_path / "backbone")
    whole = _child(tmp_path / "whole").communicate()[0].splitlines()[-1]
    assert whole.startswith("done")
    for number, step in enumerate(("4", "17")):
        process = _child(tmp_path / "killed")
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == step:
                # Somewhere in the step after, or in the checkpoint of this one.
                time.sleep(0.004 * number)
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
    assert not list((tmp_path / "killed").glob("*.json"))
    assert _child(tmp_path / "killed").communicate()[0].splitlines()[-1] == whole


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_task(tmp_path: Path) -> None:
    run = run_of({"steps": 12, "evaluations": 6}, folder=tmp_path)

    def spoil(course: Any) -> None:
        if course.step == 5:
            with torch.no_grad():
                run.heads["size"].weight.fill_(float("nan"))

    run.watch = spoil
    with pytest.raises(TrainingError, match=r"task 'size' became nan in step 6.*step-00000004"):
        run.train()
    assert run.checkpoints is not None
    found = run.checkpoints.latest()
    assert found is not None
    assert found.step == 4
    assert all(torch.isfinite(each).all() for name, each in found.tensors.items() if name != "random")


def test_weights_that_the_last_step_broke_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of({"steps": 3, "evaluations": 1})
    step = type(run)._step

    def last_breaks(self: Any) -> None:
        step(self)
        if self.course.step == 3:
            with torch.no_grad():
                next(iter(self.weights.values())).fill_(float("inf"))

    monkeypatch.setattr(type(run), "_step", last_breaks)
    with pytest.raises(TrainingError, match=r"a weight is no number \(backbone\..*\) in step 3: a lower"):
        run.train()


def test_a_full_disk_stops_the_run_and_leaves_the_last_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskheads.training.joint import checkpoints

    write, calls = checkpoints.save_file, []

    def fill_up(tensors: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", fill_up)
    run = run_of({"evaluations": 6}, folder=tmp_path)
    with pytest.raises(
        TrainingError, match=r"No space left on device; the last good checkpoint is .*step-00000004"
    ):
        run.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]
    monkeypatch.undo()
    whole, resumed = run_of({"evaluations": 6}), run_of({"evaluations": 6}, folder=tmp_path)
    whole.train(), resumed.train()
    assert numbers(resumed) == numbers(whole)


def test_checkpoints_of_another_run_are_refused_and_say_what_differs(tmp_path: Path) -> None:
    run_of({"steps": 4}, folder=tmp_path).train()
    with pytest.raises(ConfigError, match="another recipe"):
        run_of({"steps": 5}, folder=tmp_path).train()


def test_frozen_layers_and_nothing_else_stay_as_they_were() -> None:
    from taskheads.training.joint.optimiser import freeze_below

    run = run_of({"steps": 3})
    freeze_below(run.backbone, 1)
    run = Run(run.backbone, run.heads, run.rows, run.dev, run.alone, run.recipe)
    before = {name: each.detach().clone() for name, each in run.backbone.model.named_parameters()}
    run.train()
    place = layer_of_weights(run.backbone)
    moved = {
        name for name, each in run.backbone.model.named_parameters() if not torch.equal(each, before[name])
    }
    assert moved
    assert all(place[name] >= 1 for name in moved)
    assert {name for name in before if place[name] == 1} <= moved


def test_the_rate_rises_to_its_height_and_falls_to_nothing() -> None:
    recipe = Recipe(warmup=0.1, schedule="cosine")
    rates = [rate_at(step, 100, recipe) for step in range(100)]
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates[0] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_the_average_of_weights_is_the_recursion_by_hand() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    average = MovingAverage([weight], 0.9)
    expected = 1.0
    for step, value in enumerate([3.0, -2.0, 5.0], start=1):
        weight.data.fill_(value)
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average.values[0].item() == pytest.approx(expected)
    average.swap()
    assert (weight.item(), average.values[0].item()) == pytest.approx((expected, 5.0))


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"lrr": 1e-3}, "no 'lrr'.*lr"),
        ({"steps": 0}, "steps = 0"),
        ({"optimizer": "sgd"}, "optimizer = 'sgd'"),
    ],
)
def test_a_slip_in_the_recipe_is_one_sentence(said: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Recipe.of(said)
