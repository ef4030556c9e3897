"""A run that is stopped at any moment goes on to the bits that it would have reached."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskheads.errors import TrainingError
from taskheads.training.joint import checkpoints
from taskheads.training.joint.checkpoints import Checkpoint
from taskheads.training.joint.loop import FEWEST_STEPS, Run
from taskheads.training.joint.resuming import ctrl_c_noted
from tests.training.joint.planted import numbers, run_of

SAID = {"evaluations": 6}  # dev is looked at, and the run kept, after every second of twelve steps


def amid(run: Run, done: int, act: Callable[[], None], training: bool = True) -> Run:
    """The run, which does this in a forward pass after so many whole steps: in the middle of the next one,
    or, not training, of the look at dev that belongs to the last one."""
    head = run.heads["size"]
    loss = head.loss

    def acting(*given: Any) -> Any:
        if (run.course.step, run.backbone.model.training) == (done, training):
            act()
        return loss(*given)

    head.loss = acting  # type: ignore[method-assign]
    return run


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def latest(run: Run) -> Checkpoint:
    assert run.checkpoints is not None
    found = run.checkpoints.latest()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("done", "training", "step"),
    [(4, True, 5), (5, True, 6), (6, False, 6)],
    ids=["in a step", "in a step before dev", "on dev"],
)
def test_ctrl_c_is_honoured_when_the_step_is_whole_and_loses_nothing(
    done: int, training: bool, step: int, tmp_path: Path
) -> None:
    whole, before = run_of(SAID), signal.getsignal(signal.SIGINT)
    whole.train()
    with pytest.raises(TrainingError, match=rf"stopped after step {step} of 12.*--resume"):
        amid(run_of(SAID, folder=tmp_path), done, ctrl_c, training).train()
    assert signal.getsignal(signal.SIGINT) is before
    resumed = run_of(SAID, folder=tmp_path)
    assert latest(resumed).step == step
    resumed.train()
    assert numbers(resumed) == numbers(whole)


def test_a_second_ctrl_c_ends_the_run_at_once_and_at_its_last_checkpoint(tmp_path: Path) -> None:
    whole, before = run_of(SAID), signal.getsignal(signal.SIGINT)
    whole.train()

    def twice() -> None:
        ctrl_c(), ctrl_c()

    with pytest.raises(TrainingError, match=r"in the middle of step 6.*step-00000004"):
        amid(run_of(SAID, folder=tmp_path), 5, twice).train()
    assert signal.getsignal(signal.SIGINT) is before
    resumed = run_of(SAID, folder=tmp_path)
    assert latest(resumed).step == 4
    resumed.train()
    assert numbers(resumed) == numbers(whole)


def test_an_interrupt_within_a_step_in_another_thread_keeps_nothing_half_done(tmp_path: Path) -> None:
    told: list[Any] = []

    def interrupt() -> None:
        told.append(latest(run))
        raise KeyboardInterrupt

    def train() -> None:
        try:
            run.train()
        except TrainingError as error:
            told.append(str(error))

    # Of the same number as the checkpoint that is there: a half-done state would take its place.
    run = amid(run_of(SAID, folder=tmp_path), 4, interrupt)
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    before, message = told
    assert "in the middle of step 5" in message
    assert latest(run).state == before.state


def test_an_interrupt_while_a_checkpoint_is_written_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def write(tensors: Any, path: Path) -> None:
        calls.append(path)
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_file", write)
    # Both the checkpoint and the last try to keep the run are interrupted.
    with pytest.raises(KeyboardInterrupt):
        run_of(SAID, folder=tmp_path).train()
    assert len(calls) == 2
    assert not list(tmp_path.iterdir())


def test_without_a_folder_ctrl_c_says_that_nothing_was_kept() -> None:
    with pytest.raises(TrainingError, match="nothing was kept"):
        amid(run_of({}), 2, ctrl_c).train()


def test_a_ctrl_c_that_nobody_honoured_is_not_lost() -> None:
    seen = []

    def unaware() -> None:
        with ctrl_c_noted() as stop:
            ctrl_c()
            seen.append(stop.asked)

    with pytest.raises(KeyboardInterrupt):
        unaware()
    assert seen == [True]


def test_a_handler_of_the_callers_own_stays(tmp_path: Path) -> None:
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(run.course.step))
    try:
        run = amid(run_of({}), 2, ctrl_c)
        run.train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [2]
    assert run.course.step == 12


def test_a_run_resumed_at_the_step_that_is_timed_goes_on(tmp_path: Path) -> None:
    said = {"steps": None, "minutes": 1000.0, "epochs": 3.0}

    def stop(course: Any) -> None:
        if course.step == FEWEST_STEPS - 1:
            raise KeyboardInterrupt

    with pytest.raises(TrainingError, match="--resume"):
        run_of(said, folder=tmp_path, watch=stop).train()
    course = run_of(said, folder=tmp_path).train()
    assert course.step == course.planned > FEWEST_STEPS
