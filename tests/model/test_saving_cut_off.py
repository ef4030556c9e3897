"""A save that the disk or a kill cuts off leaves the model that was there, or none."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from taskheads.backbone.backbone import Backbone
from taskheads.errors import ModelError
from taskheads.model import saving
from taskheads.model.model import Model
from tests.small_models import rows, tiny_backbone, tiny_model

PLACES = ("over the old model", "over another backbone", "to a new folder")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(["topic", "labels"]).save(tmp_path / "model")
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What a save may do to the disk, each a place where the disk may be full.
STEPS: dict[str, tuple[Any, str]] = {
    "head": (saving, "save_file"),
    "text": (Path, "write_text"),
    "rename": (os, "replace"),
    "backbone": (Backbone, "save"),
}
FULL: dict[str, Callable[[], Exception]] = {
    "system": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "safetensors": lambda: SafetensorError("I/O error: No space left on device (os error 28)"),
}


def failing(monkeypatch: pytest.MonkeyPatch, step: str, after: int, error: Callable[[], Exception]) -> None:
    """Let the step go right `after` times, and then fail half-way."""
    owner, name = STEPS[step]
    plain, count = getattr(owner, name), 0

    def fail(*args: Any, **how: Any) -> Any:
        nonlocal count
        count += 1
        if count <= after:
            return plain(*args, **how)
        if step != "rename":
            plain(*args, **how)
        raise error()

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize(
    ("step", "after"), [("head", 0), ("head", 1), ("text", 0), ("rename", 0), ("rename", 2), ("backbone", 0)]
)
@pytest.mark.parametrize("where", PLACES)
def test_a_full_disk_leaves_what_was_there(
    where: str, step: str, after: int, error: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(
        ["size", "topic", "names"], tiny_backbone(1) if "another" in where else Model.load(folder).backbone
    )
    if where == "to a new folder":
        shutil.rmtree(folder)
    before = contents(folder)
    failing(monkeypatch, step, after, FULL[error])
    if step == "backbone" and where == "over the old model":
        model.save(folder)  # that backbone is not written again
        return
    with pytest.raises(ModelError, match=r"cannot be saved to .*No space left on device"):
        model.save(folder)
    monkeypatch.undo()
    assert contents(folder) == before
    assert folder.exists() == bool(before)
    assert [path.name for path in folder.parent.iterdir()] == (["model"] if before else [])
    model.save(folder)
    assert Model.load(folder).predict(rows(3)) == model.predict(rows(3))


def test_the_last_step_is_the_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest's own renaming fails: everything new goes again, and the old model stays."""
    model = tiny_model(["size"], Model.load(folder).backbone)
    before = contents(folder)
    failing(monkeypatch, "rename", 1, FULL["system"])
    with pytest.raises(ModelError):
        model.save(folder)
    assert contents(folder) == before


def in_a_child(work: Callable[[], None]) -> int:
    """Run in a forked process; its wait status."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_really_full_disk(folder: Path) -> None:
    """Writes fail for real, in whatever library writes: no file may be larger than some bytes."""
    model = tiny_model(["size", "topic"], tiny_backbone(1))
    before = contents(folder)
    for most in (100, 3000, 40_000):

        def work(most: int = most) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            try:
                model.save(folder)
            except ModelError as error:
                os._exit(7 if "File too large" in str(error) else 8)

        assert os.waitstatus_to_exitcode(in_a_child(work)) == 7
        assert contents(folder) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("where", PLACES)
def test_a_kill_at_any_step_leaves_the_old_model_or_none(where: str, folder: Path) -> None:
    backbone = tiny_backbone(1) if "another" in where else Model.load(folder).backbone
    model = tiny_model(["size", "topic", "names"], backbone)
    if where == "to a new folder":
        shutil.rmtree(folder)
        old = None
    else:
        old = Model.load(folder).predict(rows(3))
    new = model.predict(rows(3))
    kills = 0
    for step, after in [("head", 0), ("head", 2), ("text", 0), ("rename", 0), ("rename", 3), ("backbone", 0)]:

        def work(step: str = step, after: int = after) -> None:
            with pytest.MonkeyPatch.context() as patch:
                failing(patch, step, after, lambda: os.kill(os.getpid(), signal.SIGKILL))  # type: ignore[arg-type, return-value]
                model.save(folder)

        killed = os.WIFSIGNALED(in_a_child(work))
        kills += killed
        if not killed:
            assert (step, where) == ("backbone", "over the old model")
        elif old is None:
            assert not folder.exists()
        else:
            assert Model.load(folder).predict(rows(3)) == old
    assert kills >= 5
    model.save(folder)
    assert Model.load(folder).predict(rows(3)) == new
    assert len(list(folder.glob("backbone*"))) == 1
    assert len(list((folder / "heads").iterdir())) == 3
    assert not list(folder.rglob("*.partial"))
