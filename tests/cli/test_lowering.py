"""`taskheads lower`: what it prints, writes and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from taskheads.model.model import Model
from tests.cli.conftest import Run
from tests.compare.small import written

NAMES = ("names", "size", "topic")  # as the suite file has them


@pytest.fixture
def fitted(run: Run, tmp_path: Path) -> Path:
    folder = tmp_path / "first"
    done = run("fit", written(tmp_path, NAMES), "--tune", "frozen", "--out", folder, "--no-cache")
    assert done.code == 0, done.err
    return folder


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_lower_from_end_to_end(precision: str, run: Run, fitted: Path, tmp_path: Path) -> None:
    low = tmp_path / "low"
    done = run("lower", fitted, "--precision", precision, "--out", low, "--no-cache")
    assert done.code == 0, done.err
    title, *lines = done.out.splitlines()
    assert title.split() == ["task", "metric", "float32", precision, "difference", "rows"]
    assert [line.split()[0] for line in lines[:3]] == list(NAMES)
    assert "times as fast" in done.out
    assert str(low) in lines[-1]
    # What is printed is what the saved model scores and says of itself.
    before, after = (run("evaluate", folder, "--json").json for folder in (fitted, low))
    model = Model.load(low)
    for line, was, score in zip(lines, before, after, strict=False):
        assert line.split()[2:4] == [f"{was['value']:.3f}", f"{score['value']:.3f}"]
        assert model.card["tasks"][score["task"]]["test"] == score
    assert model.backbone.precision == precision
    whole = Model.load(fitted)
    assert _bytes(model) < (0.6 if precision == "bfloat16" else 0.9) * _bytes(whole)
    for name, head in whole.heads.items():
        assert all(map(torch.equal, head.state_dict().values(), model.heads[name].state_dict().values()))


def _bytes(model: Model) -> int:
    """What the weights of its backbone take in memory."""
    body = model.backbone.model
    return sum(each.nbytes for each in (*body.parameters(), *body.buffers()))


def test_what_is_lowered_already_is_refused(run: Run, fitted: Path, tmp_path: Path) -> None:
    low = tmp_path / "low"
    assert run("lower", fitted, "--out", low, "--no-cache").code == 0
    done = run("lower", low, "--out", tmp_path / "lower", "--no-cache")
    assert (done.code, done.out) == (2, "")
    assert "in bfloat16 already" in done.err
    assert not (tmp_path / "lower").exists()


def test_a_folder_of_other_files_is_left_alone(run: Run, fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    done = run("lower", fitted, "--out", tmp_path / "mine")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
