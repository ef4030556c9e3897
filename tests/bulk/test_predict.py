"""Answers in a file: whole or not there, and the same to the last byte however often the run was cut off."""

from __future__ import annotations

import io
import json
import multiprocessing
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskheads.bulk import blocks, draft, job
from taskheads.bulk.draft import folder_of, kept_rows
from taskheads.bulk.predict import Prediction
from taskheads.errors import ConfigError, DataError
from taskheads.model.model import Model
from tests.small_models import rows, tiny_model

SMALL = 8
TASKS = ["topic", "names", "find"]
ROWS = [
    *rows(50),
    "a text alone",
    {"title": "home"},
    {"nothing": 1},
    {"text": None, "query": "home"},
    *rows(5),
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (blocks, draft, job):
        monkeypatch.setattr(module, "BLOCK", SMALL)


@pytest.fixture
def source(write) -> Path:
    return write("rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run that is never cut off writes, by ending."""
    to = tmp_path_factory.mktemp("whole")
    (to / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.MonkeyPatch.context() as patch:
        for module in (blocks, draft, job):
            patch.setattr(module, "BLOCK", SMALL)
        for ending in ("jsonl", "parquet"):
            Prediction(folder, to / "rows.jsonl", tasks=TASKS).write(to / f"a.{ending}")
    return {ending: (to / f"a.{ending}").read_bytes() for ending in ("jsonl", "parquet")}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each block that is answered from now on."""
    found: list[int] = []
    plain = job.answer_block

    def answer_block(heads: Any, backbone_of: Any, some: Any, **named: Any) -> Any:
        found.append(len(some))
        return plain(heads, backbone_of, some, **named)

    monkeypatch.setattr(job, "answer_block", answer_block)
    return found


def cut_off(folder: Path, source: Path, output: Path, after: int) -> None:
    """Leave a run whose first `after` blocks were kept."""

    def interrupted(_stage: str, done: int, _total: int) -> None:
        if done >= after * SMALL:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Prediction(folder, source, tasks=TASKS, progress=interrupted).write(output)
    assert kept_rows(output) == after * SMALL
    assert not output.exists()


def test_a_file_a_stream_and_a_list_have_the_same_answers(
    folder: Path, source: Path, whole: dict[str, bytes]
) -> None:
    model = Model.load(folder)
    expected = [
        answer
        for start in range(0, len(ROWS), SMALL)
        for answer in model.predict(ROWS[start : start + SMALL], tasks=TASKS)
    ]
    assert list(Prediction(folder, source, tasks=TASKS)) == expected
    assert [json.loads(line) for line in whole["jsonl"].splitlines()] == expected


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_only_the_whole_output_stays(ending: str, folder: Path, source: Path, whole, tmp_path: Path) -> None:
    output = tmp_path / "new" / f"a.{ending}"
    assert Prediction(folder, source, tasks=TASKS).write(output) == len(ROWS)
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    assert output.read_bytes() == whole[ending]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_wherever_it_is_cut_the_resumed_file_is_the_same_and_nothing_is_answered_twice(
    ending: str, folder: Path, source: Path, whole, tmp_path: Path, counted: list[int]
) -> None:
    output = tmp_path / f"a.{ending}"
    cut_off(folder, source, output, after=3)
    begun = folder_of(output)
    kept = shutil.copytree(begun, tmp_path / "kept")
    journal, answers = (len((kept / name).read_bytes()) for name in ("journal", "blocks"))
    draw = random.Random(0)
    model = Prediction(folder, source, tasks=TASKS)
    for _ in range(10):
        shutil.copytree(kept, begun, dirs_exist_ok=True)
        # A kill leaves no less than was synced before: what the journal names, and a part of the next block.
        name, size = draw.choice([("journal", journal), ("blocks", answers)])
        with (begun / name).open("r+b") as file:
            file.truncate(draw.randrange(size + 1))
        remaining = len(ROWS) - kept_whole(begun)
        counted.clear()
        model.write(output, resume=True)
        assert output.read_bytes() == whole[ending]
        assert sum(counted) == remaining
        assert not begun.exists()
    for name, more in (("blocks", b'{"topic": {"lab'), ("journal", b"\0\0\n{}\n")):
        shutil.copytree(kept, begun)
        with (begun / name).open("ab") as file:
            file.write(more)
        model.write(output, resume=True)
        assert output.read_bytes() == whole[ending]


def kept_whole(begun: Path) -> int:
    """Rows whose answers and whose line in the journal are both whole, counted from the bytes."""
    lines = (begun / "journal").read_bytes().split(b"\n")[1:-1]
    size = (begun / "blocks").stat().st_size
    return max((mark["rows"] for mark in map(json.loads, lines) if mark["end"] <= size), default=0)


def going_on(folder: Path, source: Path, output: Path, pause: float) -> None:
    """In a process of its own: go on with the output, slowly enough to be killed on the way."""
    for module in (blocks, draft, job):
        module.BLOCK = SMALL
    plain = draft._to_disk

    def slow(file: Any) -> None:
        time.sleep(pause)
        plain(file)

    draft._to_disk = slow
    Prediction(folder, source, tasks=TASKS).write(output, resume=True)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_run_killed_at_random_moments_goes_on(
    ending: str, folder: Path, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["taskheads.model.model", "pyarrow.parquet", __name__])
    draw, output = random.Random(ending), tmp_path / f"a.{ending}"
    kept = [0]
    for pause in (0.05, 0.05, 0.0):
        process = context.Process(target=going_on, args=(folder, source, output, pause))
        process.start()
        if pause:
            while process.is_alive() and kept_rows(output) <= kept[-1]:
                time.sleep(0.001)
            time.sleep(draw.random() * 2 * pause)
            process.kill()
        process.join()
        kept.append(kept_rows(output))
        assert pause == 0 or process.exitcode == -signal.SIGKILL
        assert output.exists() is (pause == 0)
    assert kept[:3] == sorted(set(kept[:3])), "each run went on from where the one before was killed"
    assert process.exitcode == 0
    assert output.read_bytes() == whole[ending]
    assert not folder_of(output).exists()


def test_what_is_kept_is_neither_overwritten_nor_gone_on_with_unasked(
    folder: Path, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.jsonl"
    cut_off(folder, source, output, after=2)
    before = {path.name: path.read_bytes() for path in folder_of(output).iterdir()}
    with pytest.raises(ConfigError, match=r"a\.jsonl\.partial holds the answers to 16 rows .*--resume"):
        Prediction(folder, source).write(output)
    assert {path.name: path.read_bytes() for path in folder_of(output).iterdir()} == before


@pytest.mark.parametrize(
    ("other", "named"),
    [({"tasks": ["topic"]}, "other tasks"), ({"scores": True}, "another choice of --scores")],
)
def test_another_question_is_not_the_run_that_was_cut_off(
    other: dict[str, Any], named: str, folder: Path, source: Path, tmp_path: Path
) -> None:
    cut_off(folder, source, tmp_path / "a.jsonl", after=2)
    with pytest.raises(ConfigError, match=f"begun with {named}"):
        Prediction(folder, source, **{"tasks": TASKS, **other}).write(tmp_path / "a.jsonl", resume=True)
    assert kept_rows(tmp_path / "a.jsonl") == 16


def test_another_model_is_not_the_run_that_was_cut_off(folder: Path, source: Path, tmp_path: Path) -> None:
    cut_off(folder, source, tmp_path / "a.jsonl", after=2)
    other = tiny_model()
    other.heads["topic"].bias.data += 1  # type: ignore[operator, union-attr]
    other.save(tmp_path / "other")
    with pytest.raises(ConfigError, match="begun with another model"):
        Prediction(tmp_path / "other", source, tasks=TASKS).write(tmp_path / "a.jsonl", resume=True)
    assert kept_rows(tmp_path / "a.jsonl") == 16


@pytest.mark.parametrize("change", [lambda some: [*some[:15], "other", *some[16:]], lambda some: some[:10]])
def test_another_input_is_not_the_run_that_was_cut_off(
    change, folder: Path, source: Path, write, tmp_path: Path
) -> None:
    cut_off(folder, source, tmp_path / "a.jsonl", after=2)
    write("rows.jsonl", change(ROWS))
    with pytest.raises(DataError, match=r"rows\.jsonl: its first 16 rows are not those that were answered"):
        Prediction(folder, source, tasks=TASKS).write(tmp_path / "a.jsonl", resume=True)
    assert kept_rows(tmp_path / "a.jsonl") == 16


def test_a_bad_row_can_be_mended_and_what_was_answered_before_it_stays(
    folder: Path, write, whole: dict[str, bytes], tmp_path: Path, counted: list[int]
) -> None:
    bad = write("rows.jsonl", [*ROWS[:20], {"text": 7}, *ROWS[21:]])
    with pytest.raises(DataError, match=r"rows\.jsonl, row 21, column 'text', value 7"):
        Prediction(folder, bad, tasks=TASKS).write(tmp_path / "a.jsonl")
    assert kept_rows(tmp_path / "a.jsonl") == 16
    counted.clear()
    # Mended in another file, with columns that no task reads.
    mended = write(
        "mended.jsonl", [row | {"id": i} if isinstance(row, dict) else row for i, row in enumerate(ROWS)]
    )
    Prediction(folder, mended, tasks=TASKS).write(tmp_path / "a.jsonl", resume=True)
    assert (tmp_path / "a.jsonl").read_bytes() == whole["jsonl"]
    assert sum(counted) == len(ROWS) - 16


def test_an_early_error_leaves_nothing(folder: Path, write, tmp_path: Path) -> None:
    bad = write("rows.jsonl", [*ROWS[:5], {"text": 7}])
    (tmp_path / "a.jsonl").write_text("of another day")
    with pytest.raises(DataError):
        Prediction(folder, bad).write(tmp_path / "a.jsonl")
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "a.jsonl"}
    assert (tmp_path / "a.jsonl").read_text() == "of another day"


def test_a_file_of_somebody_else_stays(folder: Path, source: Path, tmp_path: Path) -> None:
    mine = tmp_path / "a.jsonl.partial" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("precious")
    Prediction(folder, source).write(tmp_path / "a.jsonl")
    assert [path.read_text() for path in mine.parent.iterdir()] == ["precious"]


def test_two_runs_do_not_write_one_file(folder: Path, source: Path, tmp_path: Path) -> None:
    with (
        draft.open_draft(tmp_path / "a.jsonl", {}, resume=True),
        pytest.raises(ConfigError, match=r"another process is writing .*a\.jsonl\.partial"),
    ):
        Prediction(folder, source).write(tmp_path / "a.jsonl", resume=True)


def test_blocks_without_any_answer_are_null_wherever_they_stand(folder: Path, write, tmp_path: Path) -> None:
    asked: list[Any] = [{"nothing": i} for i in range(3 * SMALL)]
    asked[SMALL:SMALL] = rows(SMALL)
    made = list(Prediction(folder, write("rows.jsonl", asked)))
    Prediction(folder, tmp_path / "rows.jsonl").write(tmp_path / "a.jsonl")
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == made
    assert [any(answer is not None for answer in row.values()) for row in made] == [
        SMALL <= i < 2 * SMALL for i in range(4 * SMALL)
    ]


def test_rows_of_which_none_has_an_answer_are_an_error_at_the_first(
    folder: Path, write, tmp_path: Path
) -> None:
    path = write("rows.jsonl", "\n\n" + '{"txt": "a"}\n' * (3 * SMALL))
    asked = Prediction(folder, path)
    match = r"rows\.jsonl, row 3: no task has its inputs here; they are doc, other, query, text, title"
    with pytest.raises(DataError, match=match):
        next(iter(asked))
    with pytest.raises(DataError, match=match):
        asked.write(tmp_path / "a.jsonl")


def test_no_rows_are_an_empty_file(folder: Path, write, tmp_path: Path) -> None:
    assert Prediction(folder, write("rows.jsonl", "")).write(tmp_path / "a.jsonl") == 0
    assert (tmp_path / "a.jsonl").read_bytes() == b""


def test_a_pipe_without_an_end_is_answered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:
            buffer[:] = (b'"a"\n' * len(buffer))[: len(buffer)]
            return len(buffer)

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    answers: Iterator[dict[str, Any]] = iter(Prediction(folder, tasks=["topic"]))
    assert [next(answers).keys() for _ in range(3 * SMALL)] == [{"topic"}] * 3 * SMALL


def test_progress_tells_rows(folder: Path, source: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    Prediction(folder, source, progress=lambda *each: told.append(each)).write(tmp_path / "a.jsonl")
    assert [done for _, done, _ in told] == [*range(SMALL, len(ROWS), SMALL), len(ROWS)]
    assert all(stage == "predict" and total >= done for stage, done, total in told)
    assert told[-1][2] == len(ROWS)
