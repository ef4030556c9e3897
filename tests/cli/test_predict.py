"""`taskheads predict` to a file: Parquet by the ending, cut off and gone on with, and what it says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from taskheads.bulk import blocks, draft, job
from tests.cli.conftest import Run
from tests.conftest import Write
from tests.small_models import rows, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_model(["topic", "find"]).save(folder)
    return folder


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (blocks, draft, job):
        monkeypatch.setattr(module, "BLOCK", 4)


def test_the_ending_of_the_output_is_its_form(run: Run, folder: Path, write: Write, tmp_path: Path) -> None:
    asked = write("rows.jsonl", rows(6))
    piped = run("predict", folder, "-i", asked, "--tasks", "topic")
    for name in ("a.parquet", "a.jsonl", "a.txt"):
        done = run("predict", folder, "-i", asked, "--tasks", "topic", "-o", tmp_path / name)
        assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "a.txt").read_text() == piped.out
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == piped.answers


def test_a_run_that_was_cut_off(
    run: Run, folder: Path, write: Write, tmp_path: Path, small_blocks: None
) -> None:
    """A bad row ends it; what was kept is named, not overwritten, and gone on with once the row is mended."""
    good, output = rows(11), tmp_path / "a.jsonl"
    asked = (
        "predict",
        folder,
        "--input",
        write("rows.jsonl", [*good[:9], {"text": 7}, good[10]]),
        "-o",
        output,
    )
    done = run(*asked)
    kept, error = done.err.splitlines()
    assert (done.code, done.out) == (2, "")
    assert kept == f"8 rows are answered, in {output}.partial; --resume goes on"
    assert "rows.jsonl, row 10, column 'text', value 7" in error
    again = run(*asked)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert f"{output}.partial holds the answers to 8 rows" in again.err
    write("rows.jsonl", good)
    assert run(*asked, "--resume").err == ""
    assert output.read_text() == run(*asked[:4]).out
    assert not Path(f"{output}.partial").exists()


def test_a_pipe_into_a_file_can_be_gone_on_with(
    run: Run, folder: Path, tmp_path: Path, small_blocks: None
) -> None:
    lines = [json.dumps(row) + "\n" for row in rows(10)]
    asked = ("predict", folder, "-o", tmp_path / "a.jsonl")
    assert run(*asked, stdin="".join([*lines[:9], "7\n"]).encode()).code == 2
    assert run(*asked, "--resume", stdin="".join(lines).encode()).code == 0
    assert (tmp_path / "a.jsonl").read_text() == run("predict", folder, stdin="".join(lines).encode()).out


def test_what_goes_to_a_pipe_cannot_be_gone_on_with(run: Run, folder: Path, write: Write) -> None:
    done = run("predict", folder, "--input", write("rows.jsonl", ["a"]), "--resume")
    assert done.code == 2
    assert "name a file" in done.err


def test_a_cluster_cannot_read_a_pipe(run: Run, folder: Path) -> None:
    pytest.importorskip("ray", reason="the extra `distributed` is not installed")
    done = run("predict", folder, "--engine", "ray", stdin=b'"a"\n')
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: a cluster cannot read a pipe: give a file (--input)\n"


def test_a_model_without_tasks_has_one_sentence_to_say(run: Run, write: Write, tmp_path: Path) -> None:
    model = tiny_model(["topic"])
    model.remove("topic")
    model.save(tmp_path / "model")
    asked = ("predict", tmp_path / "model", "--input", write("rows.jsonl", ["a"]))
    for output in ((), ("-o", tmp_path / "a.jsonl")):
        done = run(*asked, *output)
        assert (done.code, done.out) == (2, "")
        assert done.err == "error: the model has no task to answer; `taskheads add` gives it one\n"
    assert not list(tmp_path.glob("a.*"))


def test_a_text_is_embedded_without_a_likeness_to_itself(run: Run, folder: Path) -> None:
    (answer,) = run("predict", folder, stdin=b"home\n").answers
    assert answer["find"].keys() == {"embedding"}


def test_a_full_disk_keeps_what_was_answered(
    run: Run, folder: Path, write: Write, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = draft._to_disk, []

    def full(file) -> None:
        calls.append(file)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        plain(file)

    with monkeypatch.context() as patch:
        patch.setattr(draft, "_to_disk", full)
        asked = ("predict", folder, "--input", write("rows.jsonl", rows(20)), "-o", tmp_path / "a.jsonl")
        done = run(*asked)
    assert done.code == 2
    assert (
        done.err.splitlines()[0]
        == f"8 rows are answered, in {tmp_path / 'a.jsonl'}.partial; --resume goes on"
    )
    assert "No space left on device" in done.err.splitlines()[1]
    assert run(*asked, "--resume").code == 0
    assert (tmp_path / "a.jsonl").read_text() == run(*asked[:4]).out
