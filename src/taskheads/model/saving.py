"""The folder of a saved model: safetensors and JSON, each file with its checksum, nothing to unpickle.

    taskheads.json            the manifest: schema version, backbone, tasks, every file's size and SHA-256;
                              and the data card: columns, labels, counts, scores
    backbone/                 weights, configuration and tokenizer, as Hugging Face writes them
    heads/NAME-HASH.safetensors
    branches/NAME-HASH.safetensors      the weights that a branch has of its own, or adds to the shared ones
    edits/NAME-HASH.safetensors         the parameters of an edit

The manifest is what makes a folder a model. All other files of a model stand beside those of the one that
was there before, under names of their own (another backbone is `backbone-RANDOM/`), until the manifest is
replaced, in one step. So a write that is cut off at any point leaves the old model as it was, or none.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.branching import Branch
from taskheads.backbone.composed import restored_branch, stored_branch
from taskheads.backbone.precision import Precision
from taskheads.backbone.reads import Read
from taskheads.edits.edit import Edit, made
from taskheads.errors import ModelError
from taskheads.heads import Head, head_for
from taskheads.tasks.task import Task

SCHEMA = 2
MANIFEST = "taskheads.json"
_HASH = "HASH"
_MODE = 0o644  # of files: safetensors' own can be read by nobody but their owner, a server is often another
_AGAIN = "fit the model again, or copy the folder again from where it is whole"


class Parts(NamedTuple):
    """What a model is made of: the backbone, the heads and what is known of each task; branches of the
    backbone, trunks before what grew from them, and which branch each task stands on (the backbone where
    none is named); and what tasks change in the backbone.
    """

    backbone: Backbone
    heads: dict[str, Head]
    card: dict[str, Any]
    branches: dict[str, Branch]
    branch_of: dict[str, str]
    edits: dict[str, Edit]


def save(folder: str | Path, parts: Parts) -> None:
    """Write a model, replacing one that is there.

    A backbone that the folder already has is not written again. Raises ModelError when the folder holds
    something else, or when the disk is full or not writable; what was there before is then as it was.
    """
    folder = Path(folder)
    check_writable(folder)
    try:
        if (folder / MANIFEST).exists():
            _write(folder, parts)
        else:
            _write_new(folder, parts)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the model cannot be saved to {folder}: {_reason(error)}") from error


def load(folder: str | Path, precision: Precision | None = None) -> Parts:
    """The model of a folder, its backbone in `precision`, by default in that in which it was saved.

    Every file is checked against the manifest first. Raises ModelError, in one sentence, for a folder that
    is not there or no model, an unknown schema version, a missing, cut-off or altered file, and for int8 of
    a backbone that some tasks have layers of their own of.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"there is no model folder {folder}")
    if not (folder / MANIFEST).exists():
        raise ModelError(f"{folder} is not a taskheads model: it has no {MANIFEST}")
    try:
        manifest = _manifest(folder)
        for name, facts in manifest["files"].items():
            _check(folder, name, facts)
    except OSError as error:
        raise ModelError(f"the model in {folder} cannot be read: {_reason(error)}") from error
    about = manifest["backbone"]
    precision = precision or about.get("precision", "float32")
    if precision == "int8" and manifest.get("branches"):
        raise ModelError(f"some tasks of {folder} have layers of their own, which cannot be lowered to int8")
    backbone = Backbone.load(folder / about["folder"], limit=about["limit"], precision=precision)
    backbone.name = about["name"]
    heads = {}
    for name, facts in manifest["tasks"].items():
        task = Task.from_json(facts["task"])
        head = head_for(task)(task, [Read.parse(read) for read in facts["reads"]], backbone.width)
        head.load_state_dict(load_file(folder / facts["file"]))
        heads[name] = head.eval()
    branches: dict[str, Branch] = {}
    for name, facts in manifest.get("branches", {}).items():
        trunk = branches[facts["trunk"]].backbone if facts["trunk"] else backbone
        own = restored_branch(trunk, load_file(folder / facts["file"]), facts.get("forms"))
        branches[name] = Branch(own, facts["trunk"])
    branch_of = {name: facts["branch"] for name, facts in manifest["tasks"].items() if "branch" in facts}
    edits: dict[str, Edit] = {}
    for facts in manifest.get("edits", {}).values():
        edit = made(facts["method"], backbone, facts["tasks"], facts["options"])
        edit.load_state_dict(load_file(folder / facts["file"]))
        edits |= dict.fromkeys(facts["tasks"], edit.eval())
    return Parts(backbone, heads, manifest["card"], branches, branch_of, edits)


def check_writable(folder: Path) -> None:
    """Raise ModelError unless a model may be written there: to nothing, an empty folder, or a model."""
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file; a model is saved to a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise ModelError(f"{folder} holds files that are no taskheads model; choose another folder")


def _write_new(folder: Path, parts: Parts) -> None:
    """Write a folder under another name, then give it its own."""
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    begun = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        begun.chmod(0o755)
        _write(begun, parts)
        os.replace(begun, folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _write(folder: Path, parts: Parts) -> None:
    """Write all files beside what is there, then the manifest, then drop what it does not name."""
    try:
        backbone = parts.backbone
        where, files = _backbone_in(folder, backbone)
        tasks, branches, edits = {}, {}, {}

        def put(room: str, name: str, tensors: dict[str, torch.Tensor]) -> str:
            (folder / room).mkdir(exist_ok=True)
            path = folder / room / f"{_slug(name)}-{_HASH}.safetensors"
            path = _replace(path, partial(save_file, tensors))
            file = path.relative_to(folder).as_posix()
            files[file] = _facts(path)
            return file

        for name, head in parts.heads.items():
            reads = [str(read) for read in head.reads]
            file = put("heads", name, _tensors(head.state_dict()))
            tasks[name] = {"task": head.task.to_json(), "reads": reads, "file": file}
            if name in parts.branch_of:
                tasks[name]["branch"] = parts.branch_of[name]
        for name, branch in parts.branches.items():
            trunk = parts.branches[branch.trunk].backbone if branch.trunk else backbone
            tensors, about = stored_branch(branch.backbone, trunk)
            about["file"] = put("branches", name, _tensors(tensors))
            branches[name] = about | {"trunk": branch.trunk}
        for edit in dict.fromkeys(parts.edits.values()):
            name = edit.tasks[0]
            about = {"method": edit.method, "tasks": edit.tasks, "options": edit.options}
            edits[name] = about | {"file": put("edits", name, _tensors(edit.state_dict()))}
        manifest = {
            "schema": SCHEMA,
            "taskheads": importlib.metadata.version("taskheads"),
            "backbone": {
                "name": backbone.name,
                "folder": where,
                "fingerprint": backbone.fingerprint,
                "limit": backbone.limit,
                "precision": backbone.precision,
            },
            "tasks": tasks,
            "branches": branches,
            "edits": edits,
            "card": parts.card,
            "files": files,
        }
        text = json.dumps(manifest | {"checksum": _checksum(manifest)}, indent=1, ensure_ascii=False)
        _replace(folder / MANIFEST, lambda to: to.write_text(text, encoding="utf-8", newline="\n"))
    finally:
        _drop_unnamed(folder)


def _backbone_in(folder: Path, backbone: Backbone) -> tuple[str, dict[str, Any]]:
    """Where the folder has this backbone, written if need be, and the facts of its files."""
    try:
        manifest = _manifest(folder)
        where = manifest["backbone"]["folder"]
        files = {name: facts for name, facts in manifest["files"].items() if name.startswith(f"{where}/")}
        for name, facts in files.items():
            _check(folder, name, facts)
        if manifest["backbone"]["fingerprint"] == backbone.fingerprint:
            return where, files
    except (ModelError, FileNotFoundError):
        pass  # a new folder, or a model that is no longer whole: it is written anew
    to = folder / "backbone"
    if to.exists():
        to = Path(tempfile.mkdtemp(prefix="backbone-", dir=folder))
        to.chmod(0o755)
    try:
        backbone.save(to)
    except (OSError, SafetensorError):
        raise
    except Exception as error:  # so tokenizers reports a full disk
        raise OSError(str(error)) from error
    written = [path for path in sorted(to.rglob("*")) if path.is_file()]
    for path in written:
        path.chmod(_MODE)
    return to.name, {path.relative_to(folder).as_posix(): _facts(path) for path in written}


def _drop_unnamed(folder: Path) -> None:
    """Delete backbones and heads that the manifest does not name; other files are the user's."""
    try:
        named = _manifest(folder)["files"]
    except (ModelError, FileNotFoundError):
        return
    backbones = {name.partition("/")[0] for name in named}
    for path in [*folder.glob("backbone"), *folder.glob("backbone-????????")]:
        if path.is_dir() and path.name not in backbones:
            shutil.rmtree(path)
    mine = ("heads/*.safetensors", "branches/*.safetensors", "edits/*.safetensors", "**/begun.partial")
    for path in [path for pattern in mine for path in folder.glob(pattern)]:
        if path.relative_to(folder).as_posix() not in named:
            path.unlink()


def _replace(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file under another name, then give it its own, in which `HASH` stands for its content's."""
    temporary = path.with_name("begun.partial")
    try:
        write(temporary)
        path = path.with_name(path.name.replace(_HASH, _facts(temporary)["sha256"][:12]))
        temporary.chmod(_MODE)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema = manifest["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} is damaged and cannot be read; {_AGAIN}") from error
    if schema != SCHEMA:
        raise ModelError(
            f"{path} is in version {schema!r} of the model format; this release reads version {SCHEMA}"
        )
    if manifest.pop("checksum", None) != _checksum(manifest):
        raise ModelError(f"{path} was altered: its checksum is not the one it was saved with; {_AGAIN}")
    return manifest


def _checksum(manifest: dict[str, Any]) -> str:
    # As it will be read: keys that are no texts become texts, and may then stand in another order.
    text = json.dumps(json.loads(json.dumps(manifest)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check(folder: Path, name: str, facts: dict[str, Any]) -> None:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{folder} is incomplete: {name} is missing; {_AGAIN}")
    size = path.stat().st_size
    if size != facts["bytes"]:
        raise ModelError(f"{path} is cut off or altered: {size} bytes in place of {facts['bytes']}; {_AGAIN}")
    if _facts(path)["sha256"] != facts["sha256"]:
        raise ModelError(f"{path} was altered: its checksum is not the one it was saved with; {_AGAIN}")


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor.detach().contiguous() for key, tensor in tensors.items()}


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
