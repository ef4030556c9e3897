"""What a comparison has found so far, on disk: a file for each run that has ended, whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taskheads.compare.bench import Result, Run
from taskheads.errors import ConfigError

VERSION = 1
ASKED = "asked.json"
FOUND = "comparison.json"


class Ledger:
    """The folder of a comparison.

    Parameters
    ----------
    folder: made where it is not there. asked: JSON-able, all that its results depend on. resume: go on with
        what is there; without, a comparison that is there is begun anew.

    Raises
    ------
    ConfigError: the folder holds something else, or a comparison of which something else was asked.
    """

    def __init__(self, folder: Path, asked: Mapping[str, Any], *, resume: bool) -> None:
        self.folder, self.results = folder, dict[str, Result]()
        asked = json.loads(json.dumps({"version": VERSION, **asked}))
        there = folder.exists() and any(folder.iterdir())
        if there and not (folder / ASKED).exists():
            raise ConfigError(f"{folder} holds something that is no comparison: choose another folder")
        if there and not resume:
            shutil.rmtree(folder)
        elif there:
            before = json.loads((folder / ASKED).read_text(encoding="utf-8"))
            other = next((key for key in asked if before.get(key) != asked[key]), None)
            if other is not None:
                raise ConfigError(
                    f"the comparison in {folder} was made with another {other}: start without --resume, "
                    "which begins anew, or ask the same again"
                )
        write_json(folder / ASKED, asked)
        self.spent = 0.0
        for path in sorted((folder / "runs").glob("*.json")):
            told = json.loads(path.read_text(encoding="utf-8"))
            self.spent = max(self.spent, told["spent"])
            self.results[path.stem] = Result(**told["result"])

    def begun(self, run: Run) -> Run:
        """The run, with the minutes that it had when it was begun before: only so can it go on."""
        note = self.folder / "runs" / f"{run.name}.begun"
        if note.exists():
            return replace(run, minutes=json.loads(note.read_text(encoding="utf-8")))
        if run.keep is not None:
            write_json(note, run.minutes)
        return run

    def note(self, run: Run, result: Result, spent: float) -> None:
        """Keep the result of a run that ended when the comparison had taken `spent` seconds."""
        write_json(self.folder / "runs" / f"{run.name}.json", {"spent": spent, "result": result.to_json()})
        self.results[run.name] = result


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
