"""Where a task's rows are: files, folders and datasets, each read once, sorted into splits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from taskheads.errors import DataError
from taskheads.tasks.guess.names import SPLIT_NAMES
from taskheads.tasks.readers import READERS, looks_like_hub_name, missing, read_table
from taskheads.tasks.readers.arrow import is_dataset_folder, read_dataset_folder, read_hub_dataset
from taskheads.tasks.rows import Rows
from taskheads.tasks.suggest import listed
from taskheads.tasks.table import Table

# `datasets` names the pieces of a split train-00000-of-00002.parquet.
_SHARD = re.compile(r"(.+?)-\d+-of-\d+")


@dataclass
class Source:
    """The tables of a task's data by split; those of which the split is not known stand under None."""

    tables: dict[str | None, list[Table]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def rows(self) -> dict[str | None, Rows]:
        return {split: Rows.of(tables) for split, tables in self.tables.items()}

    def add(self, other: Source) -> None:
        for split, tables in other.tables.items():
            self.tables.setdefault(split, []).extend(tables)
        self.reasons += other.reasons


class Library:
    """Reads data and remembers it: a file is read once, however many tasks use it.

    Parameters
    ----------
    base: the folder that relative paths start from.
    """

    def __init__(self, base: Path = Path()) -> None:
        self.base = base
        self._read: dict[str, Source] = {}

    def source(self, files: Mapping[str, list[str]]) -> Source:
        """Read what a task's `data` names: `{split: paths}`, with `""` for paths whose split is not said.

        A path is a file, a Hugging Face dataset (a folder or a Hub name), or a folder with a file for each
        split: `train`, `dev` (`valid`, `validation`, `val`) and `test` with any ending that can be read.
        Other files in it are left alone, which a reason mentions.

        Raises
        ------
        DataError: something cannot be read, or a folder holds no data.
        """
        source = Source()
        for split, paths in files.items():
            for path in paths:
                found = self._open(path)
                if split:
                    if len(found.tables) > 1:
                        raise DataError(f"has several splits, where a {split} file is needed", file=path)
                    found = Source({split: next(iter(found.tables.values()))}, found.reasons)
                source.add(found)
        if None in source.tables and len(source.tables) > 1:
            known = listed(split for split in source.tables if split)
            raise DataError(
                f"this file's split is not known, but other files are {known}: say which is which "
                "with {train: …, dev: …, test: …}",
                file=source.tables[None][0].path,
            )
        return source

    def _open(self, name: str) -> Source:
        path = self.base / name
        key = str(path.resolve())
        if key not in self._read:
            self._read[key] = self._read_anew(name, path)
        found = self._read[key]
        return Source({split: list(tables) for split, tables in found.tables.items()}, list(found.reasons))

    def _read_anew(self, name: str, path: Path) -> Source:
        if path.is_file():
            return Source({None: [read_table(path)]})
        if path.is_dir():
            return (
                _dataset(str(path), read_dataset_folder(path)) if is_dataset_folder(path) else _folder(path)
            )
        if looks_like_hub_name(name):
            try:
                return _dataset(name, read_hub_dataset(name))
            except DataError as error:
                near = missing(path).problem.removeprefix("no such file or folder")
                raise DataError(error.problem + near, file=name) from error
        raise missing(path)


def _dataset(name: str, tables: dict[str | None, Table]) -> Source:
    known: dict[str | None, list[Table]] = {}
    left = []
    for split, table in tables.items():
        canonical = SPLIT_NAMES.get(split.lower()) if split else None
        if len(tables) == 1 and canonical is None:
            known[None] = [table]
        elif canonical is None:
            left.append(split)
        elif len(table):
            known[canonical] = [table]
    if not known or not any(len(table) for split in known.values() for table in split):
        raise DataError(f"the dataset has no rows in train, dev or test, but {listed(tables)}", file=name)
    return Source(known, [f"splits of {name} left alone: {listed(left)}"] if left else [])


def _folder(path: Path) -> Source:
    files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in READERS)
    by_split: dict[str, list[Path]] = {}
    left = []
    for file in files:
        shard = _SHARD.fullmatch(file.stem)
        split = SPLIT_NAMES.get((shard[1] if shard else file.stem).lower())
        if split:
            by_split.setdefault(split, []).append(file)
        elif file.suffix.lower() != ".txt":  # a licence or a readme more often than data
            left.append(file)
    for split, found in by_split.items():
        if len(found) > 1 and not all(_SHARD.fullmatch(file.stem) for file in found):
            raise DataError(f"two files for {split}: {listed(f.name for f in found)}", file=path)
    if not by_split and len(left) == 1:
        return Source({None: [read_table(left[0])]})
    if not by_split:
        names = listed(sorted(p.name for p in path.iterdir())) or "nothing"
        endings = " ".join(READERS)
        raise DataError(
            f"no data here: looked for train, dev and test files ({endings}), found {names}", file=path
        )
    reasons = [f"files in {path.name} left alone: {', '.join(file.name for file in left)}"] if left else []
    tables: dict[str | None, list[Table]] = {
        split: [read_table(file) for file in found] for split, found in by_split.items()
    }
    return Source(tables, reasons)
