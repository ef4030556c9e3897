"""Trackers hear what happened, through accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from taskheads.errors import ConfigError
from tests.training.joint.planted import run_of

tracking = pytest.importorskip("accelerate.tracking")


def test_a_tracker_hears_every_step_and_every_look_at_dev(tmp_path: Path) -> None:
    from taskheads.training.joint.tracking import tracked

    heard: list[tuple[int, dict[str, float]]] = []

    class Ear(tracking.GeneralTracker):
        name, requires_logging_directory, main_process_only = "ear", False, False

        def __init__(self) -> None:
            super().__init__()

        @property
        def tracker(self) -> Any:
            return heard

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            heard.append((0, values))

        def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
            heard.append((step or 0, values))

    also: list[str] = []
    with tracked(Ear(), tmp_path, {"lr": 1e-3}, lambda run, _: also.append(run)) as watch:
        run = run_of({"steps": 6, "evaluations": 3}, watch=lambda course: watch("shared", course))
        course = run.train()
    assert heard[0] == (0, {"lr": 1e-3})
    assert [step for step, _ in heard[1:]] == [1, 2, 3, 4, 5, 6]
    told = [[step, values["shared/loss/topic"]] for step, values in heard if "shared/loss/topic" in values]
    assert told == course.losses["topic"]
    assert [step for step, values in heard[1:] if "shared/dev/topic" in values] == [2, 4, 6]
    assert also == ["shared"] * 6


def test_a_tracker_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    from taskheads.training.joint.tracking import tracked

    with (
        pytest.raises(ConfigError, match="'no such tracker' cannot be used"),
        tracked("no such tracker", tmp_path, {}),
    ):
        pass
