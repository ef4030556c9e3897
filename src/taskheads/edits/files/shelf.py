"""Edits on disk: each in a folder of its own, read when asked for, within a bound on memory."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit, made
from taskheads.errors import ConfigError

ABOUT, WEIGHTS = "edit.json", "edit.safetensors"


def save_edit(edit: Edit, folder: str | Path) -> None:
    """Write an edit: its method, tasks and options as JSON, its parameters as safetensors; all or nothing.

    Raises ConfigError when the folder holds something else, or cannot be written.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / ABOUT).exists())):
        raise ConfigError(f"{folder} holds something that is no edit; choose another folder")
    about = {"method": edit.method, "tasks": edit.tasks, "options": edit.options}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        begun = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        try:
            begun.chmod(0o755)
            (begun / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
            save_file({name: each.contiguous() for name, each in edit.state_dict().items()}, begun / WEIGHTS)
            if folder.exists():
                os.replace(folder, begun / "before")
            os.replace(begun, folder)
        finally:
            shutil.rmtree(begun, ignore_errors=True)
            shutil.rmtree(folder / "before", ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"the edit cannot be saved to {folder}: {error}") from error


def load_edit(folder: str | Path, backbone: Backbone) -> Edit:
    """The edit that `save_edit` wrote, for this backbone. Raises ConfigError where it is not whole, or not
    made for such a backbone."""
    folder = Path(folder)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        edit = made(about["method"], backbone, about["tasks"], about["options"])
        edit.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(f"{folder} is not a whole edit: {error}") from error
    except RuntimeError as error:  # so torch says that shapes differ
        raise ConfigError(f"the edit in {folder} was made for another backbone") from error
    return edit.eval().requires_grad_(False)


class Shelf(Mapping[str, Edit]):
    """The edits in the folders of one folder, by the folders' names.

    An edit is read when it is asked for, and the ones asked for longest ago leave memory when all together
    would exceed `most_bytes`. What a pass has taken stays whole for it. May be used by several threads, and
    as the `edits` of an `Edited` backbone: tasks are then served by the edits of their names.

    Parameters
    ----------
    folder: where the edits' folders are; looked at anew each time, so that edits may come and go.
    backbone: what they are for. most_bytes: of parameters kept in memory; an edit larger than that is kept
        alone.
    """

    def __init__(self, folder: str | Path, backbone: Backbone, most_bytes: int = 1 << 28) -> None:
        self.folder, self.backbone, self.most_bytes = Path(folder), backbone, most_bytes
        self._kept: OrderedDict[str, tuple[tuple[int, int], Edit]] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Edit:
        if name not in self:
            raise KeyError(name)
        with self._lock:
            written = self._written(name)
            if name in self._kept and self._kept[name][0] == written:
                self._kept.move_to_end(name)
                return self._kept[name][1]
            edit = load_edit(self.folder / name, self.backbone)
            self._kept[name] = written, edit
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and self.bytes_kept > self.most_bytes:
                self._kept.popitem(last=False)
            return edit

    def __iter__(self) -> Iterator[str]:
        return (path.parent.name for path in sorted(self.folder.glob(f"*/{ABOUT}")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and Path(name).name == name and (self.folder / name / ABOUT).is_file()

    @property
    def bytes_kept(self) -> int:
        """Of the parameters in memory."""
        return sum(_bytes_of(edit) for _, edit in self._kept.values())

    def _written(self, name: str) -> tuple[int, int]:
        """What changes when the edit's file is replaced."""
        found = (self.folder / name / WEIGHTS).stat()
        return found.st_mtime_ns, found.st_ino


def _bytes_of(edit: Edit) -> int:
    tensors: Iterator[torch.Tensor] = iter(edit.state_dict().values())
    return sum(tensor.nbytes for tensor in tensors)
