"""A suite: tasks with their data, understood and checked before anything else happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskheads.errors import ConfigError
from taskheads.tasks.build import build_task
from taskheads.tasks.guess import Guess, guess_tasks
from taskheads.tasks.guess.names import SPLIT_NAMES
from taskheads.tasks.rows import Rows
from taskheads.tasks.sources import Library, Source
from taskheads.tasks.splits import split_rows
from taskheads.tasks.task import TaskData

if TYPE_CHECKING:
    from taskheads.tasks.config import Declared, SplitConfig


@dataclass
class Suite:
    """Tasks by name, the backbone they share (`minilm`, a folder or a Hub name), the seed of a run, and what
    was said of training (see `taskheads.training.joint.recipe`)."""

    tasks: dict[str, TaskData]
    backbone: str
    seed: int
    training: dict[str, Any] = field(default_factory=dict)


def load_suite(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any],
    *,
    backbone: str | None = None,
    seed: int | None = None,
) -> Suite:
    """Read a suite, tell what is not said from the data, and check all of it.

    Parameters
    ----------
    source: a YAML file (its form is in `taskheads.tasks.config`); the same as a mapping, with paths relative
        to the working folder; or data: a file, a folder or a dataset, or a list of them, in which every task
        is told from the columns. A task is then called after its file or folder. A file with several tasks
        gives each the name `stem.column`, with its label column; so does an entry of a suite that names no
        label.
    backbone, seed: in place of what the source says; without either, "minilm" and 0.

    Raises
    ------
    ConfigError, DataError: something in the source or the data cannot be meant; one sentence that names it.
    """
    declared = declared_in(source)
    config = declared.config
    library = Library(declared.base)
    shared: dict[str, _SharedData] = {}
    plans: dict[str, tuple[str, Guess, _SharedData]] = {}
    for entry, said in config.tasks.items():
        files = said.data or config.data or {}
        split, own = said.split or config.split, said.split is not None
        key = repr((files, split))
        with declared.naming(entry):
            if key not in shared:
                shared[key] = _SharedData(library.source(files), split, own)
            guesses = guess_tasks(
                shared[key].sample, inputs=said.input or (), label=said.label, kind=said.kind
            )
            for guess in guesses:
                name = entry if len(guesses) == 1 else f"{entry}.{_clean(guess.label or guess.kind)}"
                if name in plans:
                    raise ConfigError(f"two tasks are called {name!r}: give one of them another name")
                plans[name] = (entry, guess, shared[key])
                shared[key].guesses.append(guess)
    tasks = {}
    for name, (entry, guess, data) in plans.items():
        with declared.naming(entry):
            rows, reasons = data.splits()
            tasks[name] = build_task(name, config.tasks[entry], guess, rows)
            tasks[name].edit = config.tasks[entry].edit
            tasks[name].reasons[1:1] = [*data.source.reasons, *reasons]
    chosen = backbone or config.backbone
    if backbone is None and (declared.base / chosen).is_dir():
        chosen = str(declared.base / chosen)
    return Suite(tasks, chosen, config.seed if seed is None else seed, config.training)


class _SharedData:
    """The data of all tasks on the same files, split once: no row is train for one and test for another."""

    def __init__(self, source: Source, config: SplitConfig | None, own: bool) -> None:
        self.source, self.config, self.own = source, config, own
        self.found = source.rows()
        self.guesses: list[Guess] = []
        self._splits: tuple[dict[str, Rows], list[str]] | None = None

    @property
    def sample(self) -> Rows:
        """The rows that tasks are told from: train, or all, or else what there is."""
        return next(self.found[split] for split in ("train", None, "dev", "test") if split in self.found)

    def splits(self) -> tuple[dict[str, Rows], list[str]]:
        """The rows of each split, once all tasks are known, and how they came about."""
        if self._splits is None:
            from taskheads.tasks.config import SplitConfig

            config = self.config or SplitConfig()
            self._splits = split_rows(self.found, config, self.guesses, own=self.own)
        return self._splits


def declared_in(source: Any) -> Declared:
    """What a source of `load_suite` declares, checked, before any data is read."""
    # pydantic and YAML are imported at first use: this module is, by whoever imports taskheads.
    from taskheads.tasks.config import parse_config, read_config

    if isinstance(source, (str, Path)):
        if Path(source).suffix.lower() in (".yaml", ".yml"):
            return read_config(Path(source))
        source = [source]
    if isinstance(source, Mapping):
        return parse_config(source)
    tasks: dict[str, dict[str, str]] = {}
    for item in source:
        name = _stem(Path(item))
        if name in tasks:
            raise ConfigError(
                f"two tasks would be called {name!r}, from {tasks[name]['data']} and {item}: name them in a "
                "suite file, or give the folder if these are its splits"
            )
        tasks[name] = {"data": str(item)}
    if not tasks:
        raise ConfigError("no data: give a suite file, or data files")
    return parse_config({"tasks": tasks})


def _stem(path: Path) -> str:
    """A task's name from a path: of the folder, if the file is called after a split."""
    stem = path.resolve().name if path.is_dir() else path.stem
    if stem.lower() in SPLIT_NAMES:
        stem = path.resolve().parent.name or stem
    return _clean(stem)


def _clean(name: str) -> str:
    cleaned = "".join(letter if letter.isalnum() or letter in "_.+-" else "_" for letter in name)
    return cleaned.lstrip(".+-") or "task"
