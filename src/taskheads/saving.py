"""The folder of a saved model: safetensors and JSON, each file with its checksum, nothing to unpickle.

    taskheads.json            the manifest: schema version, backbone, tasks, and every file's size and SHA-256
    card.json                 the data card: columns, labels, counts, scores
    backbone/                 weights, configuration and tokenizer, as Hugging Face writes them
    heads/NAME-HASH.safetensors

The manifest is what makes a folder a model, and it is replaced in one step, last. So a write that is cut off
leaves the old model, or none.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.reads import Read
from taskheads.errors import ModelError
from taskheads.heads import Head, head_for
from taskheads.tasks.task import Task

SCHEMA = 1
MANIFEST = "taskheads.json"
_CARD = "card.json"
_AGAIN = "fit the model again, or copy the folder again from where it is whole"


def save(folder: str | Path, backbone: Backbone, heads: dict[str, Head], card: dict[str, Any]) -> None:
    """Write a model, replacing one that is there.

    A backbone that the folder already has is not written again. Raises ModelError when the folder holds
    something else, or when the disk is full or not writable; what was there before is then as it was.
    """
    folder = Path(folder)
    check_writable(folder)
    known = _manifest(folder) if (folder / MANIFEST).exists() else None
    try:
        if known is not None and known["backbone"]["fingerprint"] == backbone.fingerprint:
            _replace(folder, _written(folder, backbone, heads, card, known))
        else:
            _write_anew(folder, backbone, heads, card)
    except OSError as error:
        raise ModelError(f"the model cannot be saved to {folder}: {error.strerror or error}") from error


def load(folder: str | Path) -> tuple[Backbone, dict[str, Head], dict[str, Any]]:
    """The model of a folder: backbone, heads by task name, card.

    Every file is checked against the manifest first. Raises ModelError, in one sentence, for a folder that
    is not there or no model, an unknown schema version, and a missing, cut-off or altered file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"there is no model folder {folder}")
    if not (folder / MANIFEST).exists():
        raise ModelError(f"{folder} is not a taskheads model: it has no {MANIFEST}")
    manifest = _manifest(folder)
    for name, facts in manifest["files"].items():
        _check(folder, name, facts)
    backbone = Backbone.load(folder / "backbone", limit=manifest["backbone"]["limit"])
    backbone.name = manifest["backbone"]["name"]
    heads = {}
    for name, facts in manifest["tasks"].items():
        task = Task.from_json(facts["task"])
        head = head_for(task)(task, [Read.parse(read) for read in facts["reads"]], backbone.width)
        head.load_state_dict(load_file(folder / facts["file"]))
        heads[name] = head.eval()
    return backbone, heads, json.loads((folder / _CARD).read_text(encoding="utf-8"))


def check_writable(folder: Path) -> None:
    """Raise ModelError unless a model may be written there: to nothing, an empty folder, or a model."""
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file; a model is saved to a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
        raise ModelError(f"{folder} holds files that are no taskheads model; choose another folder")


def _write_anew(folder: Path, backbone: Backbone, heads: dict[str, Head], card: dict[str, Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    begun = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        begun.chmod(0o755)
        backbone.save(begun / "backbone")
        _replace(begun, _written(begun, backbone, heads, card, None))
        if folder.exists():
            retired = begun.with_suffix(".retired")
            os.replace(folder, retired)
            os.replace(begun, folder)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.replace(begun, folder)
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def _written(
    folder: Path, backbone: Backbone, heads: dict[str, Head], card: dict[str, Any], known: dict | None
) -> dict[str, Any]:
    """Write all files but the manifest beside what is there, and return the manifest that names them."""
    (folder / "heads").mkdir(exist_ok=True)
    tasks: dict[str, Any] = {}
    files: dict[str, Any] = {}
    if known is None:
        for part in sorted((folder / "backbone").rglob("*")):
            if part.is_file():
                files[part.relative_to(folder).as_posix()] = _facts(part)
    else:
        files = {name: facts for name, facts in known["files"].items() if name.startswith("backbone/")}
    for name, head in heads.items():
        path = _put(folder, f"heads/{_slug(name)}", ".safetensors", partial(save_file, _tensors(head)))
        files[path] = _facts(folder / path)
        tasks[name] = {
            "task": head.task.to_json(),
            "reads": [str(read) for read in head.reads],
            "file": path,
        }
    text = json.dumps(card, indent=1, ensure_ascii=False)
    _put(folder, "card", ".json", lambda to: Path(to).write_text(text, encoding="utf-8"), exactly=_CARD)
    files[_CARD] = _facts(folder / _CARD)
    about = {"name": backbone.name, "fingerprint": backbone.fingerprint, "limit": backbone.limit}
    return {
        "schema": SCHEMA,
        "taskheads": importlib.metadata.version("taskheads"),
        "backbone": about,
        "tasks": tasks,
        "files": files,
    }


def _replace(folder: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    _put(
        folder, "manifest", ".json", lambda to: Path(to).write_text(text, encoding="utf-8"), exactly=MANIFEST
    )
    for path in (folder / "heads").iterdir():
        if f"heads/{path.name}" not in manifest["files"]:
            path.unlink()


def _put(
    folder: Path, stem: str, suffix: str, write: Callable[[str], Any], *, exactly: str | None = None
) -> str:
    """Write a file under another name, then give it its own: `exactly`, or stem and content hash."""
    temporary = folder / f"{stem}.partial"
    try:
        write(str(temporary))
        name = exactly or f"{stem}-{_facts(temporary)['sha256'][:12]}{suffix}"
        os.replace(temporary, folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    return name


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        schema = manifest["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / MANIFEST} is damaged and cannot be read; {_AGAIN}") from error
    if schema != SCHEMA:
        raise ModelError(
            f"{folder} is in version {schema!r} of the model format; this release reads version {SCHEMA}"
        )
    return manifest


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


def _tensors(head: Head) -> dict[str, torch.Tensor]:
    return {key: tensor.detach().contiguous() for key, tensor in head.state_dict().items()}


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:60]
