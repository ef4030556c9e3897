"""`taskheads export`: two variants, each with its scores, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.conftest import Write
from tests.small_models import rows, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(["topic", "size"]).save(tmp_path / "model")
    return tmp_path / "model"


def test_both_variants_are_judged_on_the_rows_that_are_named(
    run: Run, folder: Path, write: Write, tmp_path: Path
) -> None:
    """Rows labelled with the model's own answers: the graph scores as it does, int8 a little apart."""
    asked = write("rows.jsonl", rows(40))
    answers = run("predict", folder, "--input", asked).answers
    labelled = [
        row | {"topic": answer["topic"]["label"], "size": answer["size"]["value"]}
        for row, answer in zip(rows(40), answers, strict=True)
    ]
    write("train.jsonl", labelled)
    write("test.jsonl", labelled)
    suite = write(
        "suite.yaml",
        "data: {train: train.jsonl, test: test.jsonl}\n"
        "tasks:\n  topic: {input: text, label: topic, kind: classify}\n"
        "  size: {input: text, label: size, kind: regress, metric: r2}\n",
    )
    done = run("export", folder, "--onnx", tmp_path / "out", "--int8", "--data", suite)
    assert (done.code, done.err) == (0, "")
    title, *lines, last = done.out.splitlines()
    assert title.split() == ["task", "metric", "model.onnx", "model.int8.onnx", "difference", "rows"]
    scores = {line.split()[0]: line.split()[2:5] for line in lines if line.strip()}
    assert scores["topic"][0] == scores["size"][0] == "1.000"
    assert 0.5 < float(scores["size"][1]) < 1
    assert float(scores["size"][2]) == pytest.approx(float(scores["size"][1]) - 1)
    assert last.startswith("model.onnx (")
    sizes = [(tmp_path / "out" / name).stat().st_size for name in ("model.onnx", "model.int8.onnx")]
    assert sizes[1] < sizes[0]


def test_a_variant_in_int8_is_not_made_without_rows_to_judge_it_on(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    done = run("export", folder, "--onnx", tmp_path / "out", "--int8")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "say which data" in done.err
    assert not (tmp_path / "out").exists()
