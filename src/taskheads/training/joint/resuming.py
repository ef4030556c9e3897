"""What a run is stopped by and goes on from: Ctrl-C between two steps, and its state as tensors and JSON."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any, Protocol

import torch

from taskheads.backbone.backbone import Backbone
from taskheads.training.joint.checkpoints import Checkpoint
from taskheads.training.joint.course import Course
from taskheads.training.joint.joining import Joining
from taskheads.training.joint.optimiser import MovingAverage
from taskheads.training.joint.sharding import cut_like
from taskheads.training.joint.stream import Stream


@dataclass
class Stop:
    """Whether Ctrl-C was pressed."""

    asked: bool = False


@contextlib.contextmanager
def ctrl_c_noted() -> Iterator[Stop]:
    """Note Ctrl-C instead of raising KeyboardInterrupt, which a second one does at once.

    Whoever looks at the `Stop` stops where nothing is half done. If nobody does, and the block ends as though
    nothing had happened, KeyboardInterrupt is raised then. In other threads than the main one no signal can
    be handled, and a handler that is not Python's own is somebody's decision: there nothing is ever noted.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread() and before is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)
    if stop.asked:
        raise KeyboardInterrupt


@contextlib.contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed torch for the run, and leave its generators as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


class Resumable(Protocol):
    """The parts of a run that change from step to step."""

    backbone: Backbone
    joining: Joining
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    scaler: torch.amp.GradScaler
    stream: Stream
    course: Course
    best: tuple[float, dict[str, torch.Tensor]]
    stale: int

    @property
    def weights(self) -> dict[str, torch.nn.Parameter]: ...


def state_of(run: Resumable) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All that the rest of a run depends on, after a whole step: tensors by name, and what is JSON-able.

    Weights have their own names; the others begin with what they belong to: "best.", "average.",
    "optimizer.", "joining.", "state." (what edits hold beside weights), and "random" for torch's generator.
    """
    tensors = {name: each.detach() for name, each in run.weights.items()}
    tensors |= {f"best.{name}": each for name, each in run.best[1].items()}
    if run.average is not None:
        tensors |= {f"average.{i}": each for i, each in enumerate(run.average.values)}
    tensors |= {
        f"optimizer.{name}.{key}": torch.as_tensor(value)
        for name, each in _stepped(run).items()
        for key, value in run.optimizer.state.get(each, {}).items()
    }
    tensors |= {f"joining.{name}": each for name, each in run.joining.state_dict().items()}
    tensors |= {f"state.{name}": each for name, each in run.backbone.named_state()}
    tensors["random"] = torch.get_rng_state()
    state = {
        "course": asdict(run.course),
        "stream": run.stream.state(),
        "stale": run.stale,
        "best": run.best[0],
        "averaged": run.average.steps if run.average is not None else 0,
        "scaler": run.scaler.state_dict(),
    }
    return tensors, state


@torch.no_grad()
def restore(run: Resumable, found: Checkpoint) -> None:
    """Put a run that was made alike, and torch's generator, where `state_of` found them."""
    tensors, state = found.tensors, found.state
    for name, each in run.weights.items():
        each.copy_(cut_like(tensors[name], each))
    for name, held in run.backbone.named_state():
        held.copy_(tensors[f"state.{name}"])
    best = {name: cut_like(each, run.weights[name]) for name, each in _below("best", tensors)}
    run.best = state["best"], best
    run.joining.load_state_dict(dict(_below("joining", tensors)))
    groups = [each for group in run.optimizer.param_groups for each in group["params"]]
    place_of, stepped = {each: at for at, each in enumerate(groups)}, _stepped(run)
    optimizer: dict[int, dict[str, torch.Tensor]] = {}
    for place, tensor in _below("optimizer", tensors):
        name, _, key = place.rpartition(".")
        optimizer.setdefault(place_of[stepped[name]], {})[key] = cut_like(tensor, stepped[name])
    run.optimizer.load_state_dict({**run.optimizer.state_dict(), "state": optimizer})
    if run.average is not None:
        for number, tensor in _below("average", tensors):
            into = run.average.values[int(number)]
            into.copy_(cut_like(tensor, into))
        run.average.steps = state["averaged"]
    run.course = Course(**state["course"])
    run.stream.restore(state["stream"])
    run.stale = state["stale"]
    run.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(tensors["random"])


def _stepped(run: Resumable) -> dict[str, torch.nn.Parameter]:
    """What the optimiser steps, by name; how it is grouped depends on whether weights are cut up."""
    return run.weights | {f"joining.{at}": each for at, each in enumerate(run.joining.parameters)}


def _below(kind: str, tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of that kind, one after the other, with the rest of their names."""
    names = [name for name in tensors if name.startswith(f"{kind}.")]
    return ((name[len(kind) + 1 :], tensors[name]) for name in names)
