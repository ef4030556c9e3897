"""`taskheads merge` as a user calls it: a slip is told within a second, before anything is read or loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.merging.models import family, read, same, stored

SLIPS = [
    (["--with", "a", "b", "--method", "tise", "--out", "x"], "is called 'tise' (did you mean 'ties'"),
    (["--with", "a", "b", "--method", "ties", "--out", "x"], "name the base"),
    (
        ["--base", "c", "--with", "a", "b", "--method", "ties", "--density", "7", "--out", "x"],
        "between 0 and 1",
    ),
    (["--base", "c", "--with", "a", "b", "--method", "adamerging", "--out", "x"], "name them with --data"),
    (["--with", "a", "b", "--method", "linear", "--out", "x"], "there is no checkpoint a"),
]


def called(*arguments: str, at: Path, code: str = "") -> subprocess.CompletedProcess:
    """The command in a process of its own, and then the code."""
    program = f"import sys\nfrom taskheads.cli import main\ntry:\n    main()\nfinally:\n    {code or 'pass'}"
    return subprocess.run(
        [sys.executable, "-c", program, "merge", *arguments], cwd=at, capture_output=True, text=True
    )


@pytest.mark.parametrize(("arguments", "says"), SLIPS, ids=[says for _, says in SLIPS])
def test_a_slip_is_one_line_and_loads_nothing_heavy(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = called(*arguments, at=tmp_path, code="print('torch' in sys.modules)")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stdout.strip() == "False", "torch alone takes longer to load than the answer may"
    assert not list(tmp_path.iterdir())


def test_checkpoints_are_merged_without_torch(tmp_path: Path) -> None:
    _, models = family(2)
    for name, model in zip("ab", models, strict=True):
        stored(tmp_path / name, model)
    arguments = ["--with", "a", "b", "--method", "linear", "--weights", "1,0", "--out", "x", "-q"]
    done = called(*arguments, at=tmp_path, code="print('torch' in sys.modules)")
    assert done.stdout.splitlines() == ["The merged model is in x", "False"]
    assert same(read(tmp_path / "x"), models[0])


def test_what_was_merged_and_altered_since_is_named_with_its_tensor(tmp_path: Path) -> None:
    _, models = family(2)
    for name, model in zip("ab", models, strict=True):
        stored(tmp_path / name, model)
    called("--with", "a", "b", "--method", "linear", "--out", "x", "-q", at=tmp_path)
    file = tmp_path / "x" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1  # the last bit of a number, which is a number still
    file.write_bytes(data)
    done = called("--with", "x", "b", "--method", "linear", "--out", "y", "-q", at=tmp_path)
    assert done.returncode == 2
    assert "x was altered: the tensor 'norm' has not the checksum of its merge.json" in done.stderr
    assert not (tmp_path / "y").exists()
