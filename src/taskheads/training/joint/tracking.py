"""A training run told to TensorBoard, MLflow, Weights & Biases or another tracker that accelerate knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskheads.errors import ConfigError
from taskheads.training.joint.course import Course
from taskheads.training.joint.tuning import Watch


@contextmanager
def tracked(tracker: Any, folder: Path, about: dict[str, Any], also: Watch | None = None) -> Iterator[Watch]:
    """A `watch` that logs every step's losses and speed, and new dev scores; `also` is called too.

    Parameters
    ----------
    tracker: a name ("tensorboard", "wandb", "mlflow", ...) or one of accelerate's `GeneralTracker`s.
    folder: where a tracker that writes files puts them.
    about: what the run is configured with: numbers and texts.

    Raises ConfigError when accelerate or the tracker's package is not installed.
    """
    try:
        from accelerate import Accelerator

        accelerator = Accelerator(log_with=tracker, project_dir=str(folder))
        accelerator.init_trackers("taskheads", config=about)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"the tracker {tracker!r} cannot be used: {error}; pip install accelerate and its package"
        ) from error

    def watch(run: str, course: Course) -> None:
        values: dict[str, float] = {}
        for what, told in (("loss", course.losses), ("dev", course.dev)):
            now = {task: of[-1][1] for task, of in told.items() if of[-1][0] == course.step}
            values |= {f"{run}/{what}/{task}": value for task, value in now.items()}
        values[f"{run}/tokens_per_second"] = course.rates[-1][1]
        accelerator.log(values, step=course.step)
        if also is not None:
            also(run, course)

    try:
        yield watch
    finally:
        accelerator.end_training()
