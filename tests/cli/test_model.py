"""A model from the command line: fitted, asked, judged and changed on real data."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.conftest import Write

LABELS = ("DESC", "ENTY", "HUM", "NUM")


def sample(path: Path, count: int, keep: Callable[[dict], bool] = lambda row: True) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        rows = (json.loads(line) for line in file)
        return [row for row, _ in zip(filter(keep, rows), range(count), strict=False)]


@pytest.fixture(scope="module")
def suite(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of three kinds, a few hundred rows each; `places.csv` is a fourth."""
    folder = tmp_path_factory.mktemp("suite")
    files = {
        "questions.jsonl": sample(data_dir / "trec/train.jsonl", 200, lambda row: row["coarse"] in LABELS),
        "likeness.jsonl": sample(data_dir / "stsbenchmark/train.jsonl", 120),
        "names.jsonl": sample(data_dir / "wnut17/train.jsonl", 120),
    }
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "tasks.yaml").write_text(
        "tasks:\n"
        "  question: {data: questions.jsonl, label: coarse}\n"
        "  likeness: {data: likeness.jsonl, label: similarity}\n"
        "  names: {data: names.jsonl, label: entities, unseen: drop}\n"
    )
    number = [f'"{row["text"]}",{row["coarse"] == "NUM"}\n' for row in files["questions.jsonl"]]
    (folder / "number.csv").write_text("text,asks_number\n" + "".join(number), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Heads on the last layer alone, and a backbone loaded once: neither is what is tested here."""
    from taskheads.backbone.backbone import Backbone

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskheads.training.candidates.WIDEST", 400)
        patch.setattr(Backbone, "load", cache(Backbone.load))
        yield


@pytest.fixture(scope="module")
def fitted(quick: None, suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the suite, fitted once; not to be changed."""
    import taskheads as th

    folder = tmp_path_factory.mktemp("models") / "fitted"
    th.fit(suite / "tasks.yaml", tune="frozen", out=folder)
    return folder


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    """A copy of the fitted model, to be changed."""
    return Path(shutil.copytree(fitted, tmp_path / "model"))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def one_line(done: Any, *names: str) -> None:
    assert (done.code, done.out) == (2, ""), done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    for name in names:
        assert name in done.err


def test_fit_says_how_good_it_is_where_it_is_and_what_to_type_next(run: Run, suite: Path, tmp_path) -> None:
    folder = tmp_path / "runs" / "first"
    done = run("fit", "--tune", "frozen", suite / "number.csv", "--out", folder, "--seed", "1")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["task", "kind", "metric", "score", "95", "%", "baseline", "rows", "reads"]
    assert [line.split()[:3] for line in lines[1:3]] == [["number", "classify", "accuracy"], []]
    assert f"The model is in {folder}. What to type next:" in lines
    assert f"  taskheads predict {folder} --input {suite / 'number.csv'} | head -3" in done.out
    assert [path.name for path in folder.parent.iterdir()] == ["first"]
    assert run("predict", folder, stdin=b"Who wrote it?\n").answers[0]["number"]["label"] == "False"


def test_a_folder_with_other_files_is_refused_before_anything_runs(run: Run, suite: Path, write) -> None:
    mine = write("out/mine.txt", "precious")
    one_line(
        run("fit", "--tune", "frozen", suite / "no such.yaml", "--out", mine.parent),
        str(mine.parent),
        "another folder",
    )
    assert contents(mine.parent) == {"mine.txt": b"precious"}


def test_answers_are_the_same_however_rows_come(run: Run, fitted: Path, suite: Path, write: Write) -> None:
    rows = sample(suite / "questions.jsonl", 20)
    texts = [row["text"] for row in rows]
    asked = {
        "objects": run("predict", fitted, "-i", write("rows.jsonl", rows), "--tasks", "question"),
        "texts": run("predict", fitted, "--tasks", "question", stdin="\n".join(texts).encode()),
        "JSON texts": run("predict", fitted, "-i", write("a.jsonl", texts), "--tasks", "question"),
        "cells": run(
            "predict", fitted, "-i", write("a.tsv", "text\n" + "\n".join(texts)), "--tasks", "question"
        ),
    }
    for done in asked.values():
        assert (done.code, done.err) == (0, "")
        assert len(done.answers) == 20
        assert done.answers == asked["objects"].answers


def test_a_row_is_answered_by_the_tasks_whose_input_it_has(run: Run, fitted: Path) -> None:
    rows = ['{"text_a": "A cat.", "text_b": "A dog."}', '"Where is Rome?"', '{"tokens": ["In", "Rome"]}']
    both, plain, words = run("predict", fitted, "--scores", stdin="\n".join(rows).encode()).answers
    assert list(both) == ["question", "likeness", "names"]
    assert both["question"] is None
    assert both["names"] is None
    assert isinstance(both["likeness"]["value"], float)
    assert plain["likeness"] is None
    assert set(plain["question"]["scores"]) == set(LABELS)
    assert len(plain["names"]["tags"]) == 3
    assert len(words["names"]["tags"]) == 2


def test_answers_in_a_file(run: Run, fitted: Path, write: Write, tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    arguments = ("predict", fitted, "--input", write("rows.jsonl", ["Who?", "How many were there?"]))
    assert run(*arguments, "--output", path).out == ""
    assert path.read_text() == run(*arguments).out


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b'"good"\n\n{"text": "broken\n', ("rows.jsonl, row 3", "broken JSON")),
        (b'"good"\n\n7\n', ("rows.jsonl, row 3", "value 7")),
        (b'"good"\n\n{"text": 7}\n', ("rows.jsonl, row 3", "column 'text'", "value 7", "text is needed")),
        (b'"good"\n\n{"text": " "}\n', ("rows.jsonl, row 3", "column 'text'", "without text")),
        (b'"good"\n"' + b"a " * 500_001 + b'"\n', ("rows.jsonl, row 2", "1,000,002 characters")),
        (b'"good"\n{"text": "\\ud83d"}\n', ("rows.jsonl, row 2", "half a character")),
        (b'\n{"txt": "a"}\n', ("rows.jsonl, row 2", "text")),
        (b'"na\xefve"\n', ("rows.jsonl, row 1", "0xef", "UTF-8")),
    ],
)
def test_a_bad_row_is_named_and_leaves_nothing_behind(content, names, run, fitted, write, tmp_path) -> None:
    path = write("rows.jsonl", content)
    one_line(run("predict", fitted, "--input", path, "--output", tmp_path / "answers.jsonl"), *names)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_text_of_a_million_characters_is_answered(run: Run, fitted: Path) -> None:
    done = run("predict", fitted, "--tasks", "question", stdin=b"who " * 250_000 + b"\n")
    assert done.answers[0]["question"]["label"] in LABELS


def test_every_word_of_a_long_text_has_a_tag(run: Run, fitted: Path) -> None:
    done = run("predict", fitted, "--tasks", "names", stdin=b"who " * 1_000 + b"\n")
    assert len(done.answers[0]["names"]["tags"]) == 1_000


def test_no_rows_no_answers(run: Run, fitted: Path) -> None:
    done = run("predict", fitted)
    assert (done.code, done.out, done.err) == (0, "", "")


def test_names_are_checked(run: Run, fitted: Path) -> None:
    one_line(run("predict", fitted, "--tasks", "name", stdin=b"a\n"), "did you mean 'names'")
    one_line(run("remove", fitted, "likenes"), "did you mean 'likeness'")
    one_line(run("predict", fitted.with_name("nothing"), stdin=b"a\n"), "no model folder", "nothing")
    one_line(run("evaluate", fitted.parent), "not a taskheads model")


def test_evaluating_repeats_the_scores_of_fitting(run: Run, fitted: Path, suite: Path) -> None:
    card = json.loads((fitted / "taskheads.json").read_text())["card"]
    scores = run("evaluate", fitted, "--json").json
    assert [score["task"] for score in scores] == ["question", "likeness", "names"]
    for score in scores:
        assert score == card["tasks"][score["task"]]["test"]
    table = run("evaluate", fitted, "--split", "dev", "--data", suite / "tasks.yaml")
    assert (table.code, table.err) == (0, "")
    assert len(table.out.splitlines()) == 4


def test_other_tasks_answers_stay_bit_for_bit(run: Run, model: Path, suite: Path) -> None:
    some = [*sample(suite / "questions.jsonl", 40), *sample(suite / "likeness.jsonl", 40)]
    rows = "".join(json.dumps(row) + "\n" for row in some).encode()
    before = run("predict", model, stdin=rows).answers

    added = run("add", model, suite / "number.csv", "--no-cache")
    assert (added.code, added.err) == (0, "")
    assert added.out.splitlines()[1].split()[:2] == ["number", "classify"]
    assert added.out.endswith("now answers question, likeness, names, number\n")
    with_number = run("predict", model, stdin=rows).answers
    assert with_number[0].keys() - before[0].keys() == {"number"}
    assert [{name: answer[name] for name in before[0]} for answer in with_number] == before

    assert run("remove", model, "likeness").out.endswith("now answers question, names, number\n")
    without = run("predict", model, stdin=rows.splitlines(keepends=True)[0]).answers
    assert list(without[0]) == ["question", "names", "number"]
    kept = run("predict", model, "--tasks", "question,names", stdin=rows).answers
    assert kept == [{name: answer[name] for name in ("question", "names")} for answer in before]


def test_a_task_that_is_there_already(run: Run, model: Path, suite: Path) -> None:
    before = contents(model)
    one_line(run("add", model, suite / "tasks.yaml"), "'question' already")
    assert contents(model) == before


@pytest.mark.parametrize("damage", ["altered", "cut off", "missing"])
@pytest.mark.parametrize(
    "file",
    ["taskheads.json", "backbone/model.safetensors", "backbone/tokenizer.json", "heads/names*"],
)
def test_a_damaged_model_is_one_line(file: str, damage: str, run: Run, model: Path) -> None:
    (path,) = model.glob(file)
    data = path.read_bytes()
    middle = len(data) // 2
    if damage == "missing":
        path.unlink()
    elif damage == "cut off":
        path.write_bytes(data[:-1])
    else:
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    one_line(run("predict", model, stdin=b"a\n"), path.name)


@pytest.mark.parametrize("backbone", ["./no/such/folder", "no-such-owner/no-such-model"])
def test_a_backbone_that_is_not_there(
    backbone: str, run: Run, suite: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = run(
        "fit", "--tune", "frozen", suite / "questions.jsonl", "--backbone", backbone, "--out", tmp_path / "m"
    )
    one_line(done, backbone)
    assert not list(tmp_path.iterdir())


def full(*_arguments: object, **_named: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_no_new_model(run: Run, suite: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("taskheads.model.saving.save_file", full)
    done = run("fit", "--tune", "frozen", suite / "likeness.jsonl", "--out", tmp_path / "m")
    one_line(done, str(tmp_path / "m"), "No space left on device")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["add", "remove"])
def test_a_full_disk_leaves_the_old_model(
    command: str, run: Run, model: Path, suite: Path, monkeypatch
) -> None:
    before = contents(model)
    monkeypatch.setattr("taskheads.model.saving.save_file", full)
    argument = suite / "number.csv" if command == "add" else "names"
    one_line(run(command, model, argument), str(model), "No space left on device")
    assert contents(model) == before


def test_an_interrupted_fit_leaves_nothing(run: Run, suite: Path, tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("taskheads.model.saving.save_file", interrupted)
    done = run("fit", "--tune", "frozen", suite / "likeness.jsonl", "--out", tmp_path / "m")
    assert (done.code, done.out, done.err) == (130, "", "interrupted\n")
    assert not list(tmp_path.iterdir())
