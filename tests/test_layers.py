"""The house: who may import whom, and what an import may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "taskheads"

# Imports go down, never up, and never sideways between the rooms of floor 4. A room is a file or a folder
# of the package; the rooms of `attention/` are its folders.
FLOORS = (
    {"errors"},
    {"tasks", "backbone", "methods"},
    {"heads", "edits"},
    {"model", "sharing"},
    {"training", "bulk"},
    {"attention"},  # what its rooms below share
    {"merging", "attention.inspect", "attention.steer", "attention.designs", "cache", "compress"}
    | {"continual", "prompting", "data", "trust", "modalities", "routing"},
    {"compare"},
    {"report", "export", "serve", "cli", "__main__", ""},  # "" is taskheads/__init__.py, the face
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
APART = 6


def room_of(module: str) -> str:
    """The room of a module: "heads" of taskheads.heads.tag, "attention.steer" of what is below that."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if ".".join(parts[:2]) in FLOOR_OF else "".join(parts[:1])


def imports(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """(line, taskheads module) for every import, those inside functions and for types alone included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".")
                base = ".".join(here[: len(here) - node.level + is_package] + ([base] if base else []))
            # `from taskheads import heads` is of heads; `from taskheads import fit` is of the face.
            names = [
                f"{base}.{alias.name}" if room_of(f"{base}.{alias.name}") in FLOOR_OF else base
                for alias in node.names
            ]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "taskheads")


def forbidden(importer: str, imported: str) -> bool:
    """May a module not import another? (The face may import all.)"""
    mine, other = room_of(importer), room_of(imported)
    if mine in {other, ""}:
        return False
    above = FLOOR_OF[other] > FLOOR_OF[mine]
    return above or FLOOR_OF[other] == FLOOR_OF[mine] == APART


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module_name(path)) for path in PACKAGE.rglob("*.py")}
    assert rooms <= set(FLOOR_OF), "a new file or folder: which floor is it on?"


def test_imports_go_down() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        importer = module_name(path)
        found = imports(path.read_text(encoding="utf-8"), importer, path.name == "__init__.py")
        wrong += [
            f"{path.relative_to(PACKAGE)}, line {line}: {name}"
            for line, name in found
            if forbidden(importer, name)
        ]
    assert not wrong


@pytest.mark.parametrize(
    ("importer", "imported", "wrong"),
    [
        ("taskheads.heads.tag", "taskheads.backbone.sites", False),
        ("taskheads.heads.tag", "taskheads.edits.low_rank.lora", False),
        ("taskheads.heads.tag", "taskheads.model", True),
        ("taskheads.model.model", "taskheads.training.fit", True),
        ("taskheads.tasks.task", "taskheads.errors", False),
        ("taskheads.errors", "taskheads.tasks", True),
        ("taskheads.merging.ties", "taskheads.merging.vectors", False),
        ("taskheads.merging.ties", "taskheads.cache.duo", True),
        ("taskheads.attention.steer.iti", "taskheads.attention.inspect.probe", True),
        ("taskheads.attention.steer.iti", "taskheads.training", False),
        ("taskheads.attention.steer.iti", "taskheads.attention.changing", False),
        ("taskheads.attention.changing", "taskheads.attention.steer.iti", True),
        ("taskheads.cli.fit", "taskheads.report.page", False),
        ("taskheads.cli.fit", "taskheads", False),
        ("taskheads.training.loop", "taskheads", True),
        ("taskheads", "taskheads.cli", False),
    ],
)
def test_the_rule(importer: str, imported: str, wrong: bool) -> None:
    assert forbidden(importer, imported) is wrong


def test_every_form_of_import_is_seen() -> None:
    source = (
        "import torch, taskheads.model\n"
        "from taskheads import heads, fit\n"
        "from . import tag\n"
        "from ..edits import lora\n"
        "def f():\n    from taskheads.cli import main\n"
    )
    assert list(imports(source, "taskheads.heads.pair")) == [
        (1, "taskheads.model"),
        (2, "taskheads.heads"),
        (2, "taskheads"),
        (3, "taskheads.heads.tag"),
        (4, "taskheads.edits.lora"),
        (6, "taskheads.cli.main"),
    ]
    assert list(imports("from . import tag", "taskheads.heads", is_package=True)) == [
        (1, "taskheads.heads.tag")
    ]


@pytest.mark.parametrize("module", ["taskheads", "taskheads.methods"])
def test_importing_is_light_and_silent(module: str) -> None:
    code = (
        f"import sys, {module}; print(*{{'torch', 'transformers', 'pandas', 'sklearn'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
