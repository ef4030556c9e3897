"""The folder of a saved model: whole, or one clear sentence; and never half of a new one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from taskheads.errors import ModelError
from taskheads.model import saving
from taskheads.model.model import Model
from tests.small_models import rows, tiny_backbone, tiny_head, tiny_model

NAMES = ("topic", "labels", "stars", "chain", "find")
FILES = (
    "taskheads.json",
    "backbone/model.safetensors",
    "backbone/config.json",
    "backbone/tokenizer.json",
    "heads/chain-*",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder to copy."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny_model(NAMES).save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_sentence(error: pytest.ExceptionInfo[ModelError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def test_a_round_trip_is_bit_for_bit(tmp_path: Path) -> None:
    model = tiny_model()
    model.save(tmp_path / "model")
    again = Model.load(tmp_path / "model")
    assert again.predict(rows(9), scores=True) == model.predict(rows(9), scores=True)
    assert again.card == json.loads(json.dumps(model.card))
    assert again.tasks == model.tasks
    assert (again.backbone.name, again.backbone.limit) == ("tiny", 32)
    assert again.backbone.fingerprint == model.backbone.fingerprint
    for name, head in model.heads.items():
        assert again.heads[name].reads == head.reads
        for key, value in head.state_dict().items():
            assert torch.equal(again.heads[name].state_dict()[key], value)
    again.save(tmp_path / "copy")
    assert contents(tmp_path / "copy").keys() == contents(tmp_path / "model").keys()


def test_the_folder_holds_safetensors_and_json(folder: Path) -> None:
    names = contents(folder)
    assert {Path(name).suffix for name in names} == {".json", ".safetensors"}
    for name in names:
        if name.endswith(".safetensors"):
            with safe_open(folder / name, "pt") as file:
                assert file.keys()
    manifest = json.loads(names["taskheads.json"])
    assert manifest["schema"] == saving.SCHEMA
    assert set(manifest["files"]) == names.keys() - {"taskheads.json"}
    assert manifest["card"]["tasks"].keys() == set(NAMES)


def test_the_folder_can_be_moved(folder: Path, tmp_path: Path) -> None:
    before = Model.load(folder).predict(rows(3))
    folder.rename(tmp_path / "elsewhere")
    assert Model.load(tmp_path / "elsewhere").predict(rows(3)) == before


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize("place", [0, 0.3, 0.7, 1])
def test_one_bit_flipped_is_told(pattern: str, place: float, folder: Path) -> None:
    (path,) = folder.glob(pattern)
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError) as error:
        Model.load(folder)
    assert path.name in one_sentence(error)


def test_any_digit_of_the_manifest_counts(folder: Path) -> None:
    path = folder / "taskheads.json"
    text = path.read_text()
    places = [i for i, letter in enumerate(text) if letter.isdigit()]
    for place in places[:: len(places) // 25]:
        path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
        with pytest.raises(ModelError, match=r"taskheads\.json"):
            Model.load(folder)


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize("kept", [0, 10, -1])
def test_a_file_cut_off_is_told(pattern: str, kept: int, folder: Path) -> None:
    (path,) = folder.glob(pattern)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError) as error:
        Model.load(folder)
    assert path.name in one_sentence(error)


@pytest.mark.parametrize("pattern", FILES)
def test_a_missing_file_is_told(pattern: str, folder: Path) -> None:
    (path,) = folder.glob(pattern)
    path.unlink()
    with pytest.raises(ModelError) as error:
        Model.load(folder)
    assert path.name in one_sentence(error)


@pytest.mark.parametrize("schema", [saving.SCHEMA - 1, saving.SCHEMA + 1, "new", None])
def test_an_unknown_version_is_told(schema: Any, folder: Path) -> None:
    path = folder / "taskheads.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema}))
    said = rf"version .* of the model format; this release reads version {saving.SCHEMA}"
    with pytest.raises(ModelError, match=said):
        Model.load(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"schema": 1}', '{"files": {}}', "\xff\xfe", "[" * 9000]
)
def test_a_manifest_that_is_none_is_told(text: str, folder: Path) -> None:
    (folder / "taskheads.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"taskheads\.json"):
        Model.load(folder)


def test_a_place_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model folder"):
        Model.load(tmp_path / "nothing")
    with pytest.raises(ModelError, match="not a taskheads model"):
        Model.load(tmp_path)


def test_what_is_not_a_model_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="no taskheads model; choose another folder"):
        tiny_model(NAMES).save(tmp_path)
    with pytest.raises(ModelError, match="is a file"):
        tiny_model(NAMES).save(tmp_path / "notes.txt")
    assert contents(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("name", ["", "deep/down/model"])
def test_new_and_empty_folders_are_filled(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    target = Path(name) if name else tmp_path / "empty"
    if not name:
        target.mkdir()
    tiny_model(NAMES).save(target)
    assert list(Model.load(target).tasks) == list(NAMES)
    assert target.stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in target.rglob("*"))
    assert not list(tmp_path.rglob("*.partial"))


def test_saving_again_writes_heads_alone(folder: Path) -> None:
    (folder / "README.md").write_text("the user's own")
    weights = folder / "backbone" / "model.safetensors"
    before = weights.stat()
    model = Model.load(folder)
    untouched = {path.name: path.stat().st_ino for path in (folder / "heads").glob("topic-*")}
    with torch.no_grad():
        model.heads["stars"].weight.mul_(2)
    model.remove("labels")
    model.heads["size"] = tiny_head("size", model.backbone)
    model.card["tasks"]["size"] = {}
    model.save(folder)
    after = weights.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    kinds = sorted(path.name.rpartition("-")[0] for path in (folder / "heads").iterdir())
    assert kinds == ["chain", "find", "size", "stars", "topic"]
    assert untouched.keys() == {path.name for path in (folder / "heads").glob("topic-*")}
    assert (folder / "README.md").read_text() == "the user's own"
    assert Model.load(folder).predict(rows(3)) == model.predict(rows(3))


def test_another_backbone_takes_the_place_of_the_old_one(folder: Path) -> None:
    for seed in (1, 2):
        other = tiny_model(NAMES, tiny_backbone(seed))
        other.save(folder)
        assert len(list(folder.glob("backbone*"))) == 1
        assert Model.load(folder).predict(rows(3)) == other.predict(rows(3))


@pytest.mark.parametrize("pattern", FILES)
def test_saving_over_a_damaged_model_mends_it(pattern: str, folder: Path) -> None:
    model = Model.load(folder)
    (path,) = folder.glob(pattern)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    model.save(folder)
    assert Model.load(folder).predict(rows(3)) == model.predict(rows(3))
    assert len(list(folder.glob("backbone*"))) == 1


@pytest.mark.parametrize(
    "name", ["a/b", "..", "two words", "意图 · naïve", "x" * 300, "HASH", "a" + "/.." * 9]
)
def test_any_name_of_a_task(name: str, tmp_path: Path) -> None:
    model = tiny_model(["topic", "size"])
    model.heads[name] = model.heads.pop("topic")
    model.card["tasks"][name] = model.card["tasks"].pop("topic")
    model.save(tmp_path / "model")
    assert Model.load(tmp_path / "model").predict(rows(3)) == model.predict(rows(3))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert len(list((tmp_path / "model" / "heads").iterdir())) == 2


def test_names_that_look_alike_as_files_are_two_tasks(tmp_path: Path) -> None:
    model = tiny_model(["topic", "size"])
    model.heads = {"a b": model.heads["topic"], "a/b": model.heads["size"]}
    model.save(tmp_path / "model")
    assert Model.load(tmp_path / "model").predict(rows(3)) == model.predict(rows(3))


def test_keys_that_are_no_texts_are_read_back_as_texts(tmp_path: Path) -> None:
    model = tiny_model(["topic"])
    model.card["odd"] = {10: "ten", 9: "nine", True: None}
    model.save(tmp_path / "model")
    assert Model.load(tmp_path / "model").card["odd"] == {"10": "ten", "9": "nine", "true": None}
