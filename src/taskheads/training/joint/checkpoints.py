"""A run on disk, so that a kill at any moment loses minutes and changes no number."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from taskheads.errors import ConfigError, TrainingError
from taskheads.training.joint.streaming import save_file

_KEPT = 2


class Checkpoint(NamedTuple):
    """A run after `step` steps: all tensors by name, and all else as JSON."""

    step: int
    tensors: Mapping[str, torch.Tensor]
    state: dict[str, Any]


class OnDisk(Mapping[str, torch.Tensor]):
    """The tensors of a safetensors file by name, each read when it is asked for.

    Raises OSError or SafetensorError where the file is not there, or not whole.
    """

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, "pt").__enter__()
        self._names = self._file.keys()

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Checkpoints:
    """The checkpoints of one run in a folder, each a folder `step-NNNNNNNN` that is there whole or not at
    all.

    The two latest are kept, the earlier one in case that the disk fills up or fails while a third is read.

    Parameters
    ----------
    folder: where; made at the first save.
    run: JSON-able, all that the run's numbers depend on. Checkpoints of another run are refused.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self.folder, self.run = folder, json.loads(json.dumps(run))

    @property
    def saved(self) -> list[Path]:
        """The checkpoints' folders, the latest last."""
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".partial")

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint. Raises TrainingError, which names the last good one, when the disk is full."""
        final = self.folder / f"step-{step:08d}"
        begun = final.with_suffix(".partial")
        try:
            shutil.rmtree(begun, ignore_errors=True)
            begun.mkdir(parents=True)
            save_file(tensors, begun / "tensors.safetensors")
            (begun / "state.json").write_text(json.dumps({"run": self.run, "step": step, "state": state}))
            for name in ("tensors.safetensors", "state.json"):
                with (begun / name).open("rb") as file:
                    os.fsync(file.fileno())
            shutil.rmtree(final, ignore_errors=True)
            os.replace(begun, final)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TrainingError(f"a checkpoint cannot be written: {reason}; {self.last_good()}") from error
        finally:
            shutil.rmtree(begun, ignore_errors=True)  # there only if it was not finished
        for old in self.saved[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> Checkpoint | None:
        """The latest checkpoint, None where there is none. Raises ConfigError when it is of another run."""
        for folder in reversed(self.saved):
            try:
                told = json.loads((folder / "state.json").read_text())
                tensors = OnDisk(folder / "tensors.safetensors")
            except (OSError, ValueError, SafetensorError):
                continue
            if told["run"] != self.run:
                other = next(
                    (key for key in self.run if told["run"].get(key) != self.run[key]),
                    "what it was started with",
                )
                raise ConfigError(
                    f"the checkpoints in {self.folder} are of a run with another {other}; "
                    "start without --resume, which begins anew, or give the same again"
                )
            return Checkpoint(told["step"], tensors, told["state"])
        return None

    def last_good(self) -> str:
        """Which checkpoint is whole, in words."""
        return (
            f"the last good checkpoint is {self.saved[-1]}" if self.saved else "no checkpoint was written yet"
        )
