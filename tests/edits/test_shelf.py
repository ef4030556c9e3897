"""Hundreds of edits on disk, a few in memory."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import transformers as hf

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import RaggedBatch
from taskheads.edits.edit import made
from taskheads.edits.edited import Edited
from taskheads.edits.files.shelf import ABOUT, WEIGHTS, Shelf, load_edit, save_edit
from taskheads.errors import ConfigError
from tests.backbone.models import BERTISH, tiny
from tests.edits.planted import backbone_of, batch_of, rows_of, stirred

ROWS = rows_of()["first"]


def filled(folder: Path, backbone: Backbone, count: int) -> list[str]:
    names = [f"task{number}" for number in range(count)]
    for number, name in enumerate(names):
        save_edit(stirred(made("lora", backbone, [name], {"rank": 2}), number), folder / name)
    return names


def output(backbone: Backbone, edits, task: str) -> torch.Tensor:
    with torch.inference_mode():
        return Edited(backbone, edits, task).run(RaggedBatch(ROWS))["output"]


def test_memory_stays_within_its_bound_and_no_answer_changes(tmp_path: Path) -> None:
    backbone = backbone_of("bert")
    names = filled(tmp_path, backbone, 200)
    one = sum(each.nbytes for each in load_edit(tmp_path / names[0], backbone).parameters())
    shelf = Shelf(tmp_path, backbone, most_bytes=5 * one)
    assert list(shelf) == sorted(names)
    for name in [*names, *names[:3]]:
        assert torch.equal(
            output(backbone, shelf, name),
            output(backbone, {name: load_edit(tmp_path / name, backbone)}, name),
        )
        assert shelf.bytes_kept <= 5 * one
    assert shelf[names[0]] is shelf[names[0]]


def test_a_batch_may_hold_more_tasks_than_memory_does(tmp_path: Path) -> None:
    backbone = backbone_of("bert")
    names = filled(tmp_path, backbone, 4)
    shelf = Shelf(tmp_path, backbone, most_bytes=0)
    chosen = rows_of(names)
    with torch.inference_mode():
        found = Edited(backbone, shelf).run(batch_of(chosen))["output"]
        for name, part in zip(
            names, found.split([sum(map(len, each)) for each in chosen.values()]), strict=True
        ):
            alone = Edited(backbone, shelf, name).run(RaggedBatch(chosen[name]))["output"]
            torch.testing.assert_close(part, alone, rtol=1e-5, atol=1e-5)


def test_edits_come_go_and_are_replaced_without_a_rebuild(tmp_path: Path) -> None:
    backbone = backbone_of("bert")
    shelf = Shelf(tmp_path, backbone)
    edited = Edited(backbone, shelf)
    assert edited.of("task0") is backbone
    filled(tmp_path, backbone, 1)
    before = edited.of("task0").run(RaggedBatch(ROWS))["output"]
    save_edit(stirred(made("ia3", backbone, ["task0"]), 7), tmp_path / "task0")
    assert shelf["task0"].method == "ia3"
    after = edited.of("task0").run(RaggedBatch(ROWS))["output"]
    assert not torch.allclose(before, after)
    (tmp_path / "task0" / ABOUT).unlink()
    assert edited.of("task0") is backbone


def test_threads_may_ask_at_once(tmp_path: Path) -> None:
    backbone = backbone_of("bert")
    names = filled(tmp_path, backbone, 6)
    expected = {name: output(backbone, {name: load_edit(tmp_path / name, backbone)}, name) for name in names}
    shelf, wrong = Shelf(tmp_path, backbone, most_bytes=1), []

    def work(start: int) -> None:
        for turn in range(12):
            name = names[(start + turn) % len(names)]
            if not torch.equal(output(backbone, shelf, name), expected[name]):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_not_whole_is_named(tmp_path: Path) -> None:
    backbone = backbone_of("bert")
    filled(tmp_path, backbone, 1)
    with pytest.raises(ConfigError, match="another backbone"):
        load_edit(tmp_path / "task0", narrower())
    (tmp_path / "task0" / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(ConfigError, match="not a whole edit"):
        load_edit(tmp_path / "task0", backbone)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="no edit"):
        save_edit(made("lora", backbone, ["task0"]), tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"
    assert not list(tmp_path.glob(".*partial"))


def narrower() -> Backbone:
    return Backbone(tiny(hf.BertConfig(**BERTISH | {"hidden_size": 16})))
