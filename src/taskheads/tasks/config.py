"""A suite as the user declares it: what may be said, and a clear sentence for what may not.

    backbone: minilm        # "minilm" (the shipped encoder), a folder, or a Hub name
    seed: 0
    training: {minutes: 5, lr: 1e-4}    # optional; see `taskheads fit --help`
    tasks:
      intent: {data: clinc150, input: text, label: intent, kind: classify, metric: accuracy}
      slots:  {data: atis/, input: tokens, label: slots, kind: tag, crf: true}
      sts:    {data: sts.csv, input: [text_a, text_b], label: similarity, kind: pair, encoding: two}
      search: {data: {train: a.jsonl, dev: b.jsonl}, input: [query, doc], kind: embed}

All but `data` may be left out, and is then told from the columns. Paths are relative to the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from taskheads.errors import ConfigError
from taskheads.tasks.guess.names import SPLIT_NAMES
from taskheads.tasks.suggest import did_you_mean, listed
from taskheads.tasks.task import KINDS
from taskheads.tasks.yaml_file import Lines, load_yaml

_TASK_NAME = re.compile(r"\w[\w.+-]*")


def _data(value: Any) -> dict[str, list[str]]:
    """`{split: paths}`; files whose split is not said stand under `""`."""
    if isinstance(value, Mapping):
        files: dict[str, list[str]] = {}
        for name, paths in value.items():
            split = SPLIT_NAMES.get(str(name).lower())
            if split is None:
                raise ValueError(f"unknown split {name!r}{did_you_mean(name, SPLIT_NAMES)}")
            if split in files:
                raise ValueError(f"the {split} split is given twice")
            files[split] = _paths(paths)
        if "train" not in files:
            raise ValueError("no train data: `train` is missing")
        return files
    return {"": _paths(value)}


def _paths(value: Any) -> list[str]:
    paths = list(value) if isinstance(value, (list, tuple)) else [value]
    if not paths or not all(isinstance(path, (str, os.PathLike)) and str(path) for path in paths):
        raise ValueError(
            "must be a file, a folder, a dataset, a list of files or {train: …, dev: …, test: …}"
        )
    return [str(path) for path in paths]


def _inputs(value: Any) -> list[str]:
    columns = list(value) if isinstance(value, (list, tuple)) else [value]
    if not columns or len(columns) > 2 or not all(isinstance(column, str) and column for column in columns):
        raise ValueError("must be the name of a column, or a list of two")
    if len(set(columns)) < len(columns):
        raise ValueError(f"column {columns[0]!r} is given twice")
    return columns


def _edit(value: Any) -> tuple[str, dict[str, Any]] | None:
    if value is None or isinstance(value, str):
        return None if value is None else (value, {})
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, options),) = value.items()
        if isinstance(name, str) and isinstance(options, Mapping):
            return name, dict(options)
    raise ValueError("must be the name of an edit, or {name: {option: value}}")


def _kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError(f"unknown kind {value!r}{did_you_mean(value, KINDS)}; the kinds are {listed(KINDS)}")
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SplitConfig(_Strict):
    """Where dev and test rows come from when no file holds them.

    Parameters
    ----------
    column: the column that names each row's split; nothing else may then be said.
    dev, test: the share of the rows to hold out for a split that is missing.
    seed: chooses the rows. It is not the suite's seed, so that runs with different seeds are
        measured on the same rows.
    group: a column; rows that agree in it stay in one split.
    """

    column: str | None = None
    dev: Annotated[float, Field(gt=0, lt=1)] = 0.15
    test: Annotated[float, Field(gt=0, lt=1)] = 0.15
    seed: int = 0
    group: str | None = None

    @pydantic.model_validator(mode="after")
    def _meant(self) -> SplitConfig:
        if self.column is not None and len(self.model_fields_set) > 1:
            raise ValueError("`column` says each row's split: nothing else can be said beside it")
        if self.dev + self.test >= 1:
            raise ValueError(f"dev {self.dev:g} and test {self.test:g} leave no rows to train on")
        return self


class TaskConfig(_Strict):
    """What the user says about one task.

    Parameters
    ----------
    data, input, label, kind, metric, crf, encoding, split: see the module and `SplitConfig`.
    unseen: what to do with a dev or test row whose label never occurs in train: `error`; `keep` (the label
        joins the label space, and since it cannot be learned counts as a miss); or `drop` the row.
    blank: what to do with a row that has a label but no text: `error` or `drop`.
    edit: what the task may change in the backbone: the name of a method, or {name: {option: value}}.
    """

    data: Annotated[dict[str, list[str]] | None, BeforeValidator(_data)] = None
    input: Annotated[list[str] | None, BeforeValidator(_inputs)] = None
    label: str | None = None
    kind: Annotated[str | None, BeforeValidator(_kind)] = None
    metric: str | None = None
    crf: bool | None = None
    encoding: Literal["two", "joint"] | None = None
    split: SplitConfig | None = None
    unseen: Literal["error", "keep", "drop"] = "error"
    blank: Literal["error", "drop"] = "error"
    edit: Annotated[tuple[str, dict[str, Any]] | None, BeforeValidator(_edit)] = None

    @pydantic.model_validator(mode="after")
    def _meant(self) -> TaskConfig:
        if self.kind is not None and self.input is not None:
            two = self.kind in ("pair", "embed")
            if len(self.input) != 1 + two:
                columns = "two columns" if two else "one column"
                raise ValueError(f"a task of kind {self.kind} reads {columns}, not {listed(self.input)}")
        if self.kind == "embed" and self.label is not None:
            raise ValueError(f"a task of kind embed has no label, and `label` names {self.label!r}")
        if self.kind is not None:
            self.options(self.kind)
        return self

    def options(self, kind: str) -> dict[str, Any]:
        """What was said that only this kind takes, as `Task.options`; ValueError for another kind's."""
        options: dict[str, Any] = {}
        for name, value, owner in (("crf", self.crf, "tag"), ("encoding", self.encoding, "pair")):
            if value is not None and kind != owner:
                raise ValueError(f"`{name}` is for tasks of kind {owner}, and this is {kind}")
            if value is not None:
                options[name] = value
        return options


class SuiteConfig(_Strict):
    """A whole suite; `data` and `split` hold for every task that has none of its own.

    training: how the backbone is fine-tuned; checked by who trains.
    """

    tasks: Annotated[dict[str, TaskConfig], Field(min_length=1)]
    backbone: Annotated[str, Field(min_length=1)] = "minilm"
    seed: Annotated[int, Field(ge=0)] = 0
    data: Annotated[dict[str, list[str]] | None, BeforeValidator(_data)] = None
    split: SplitConfig | None = None
    training: dict[str, Any] = Field(default_factory=dict)


_MODELS: dict[str, type[BaseModel]] = {"": SuiteConfig, "tasks": TaskConfig, "split": SplitConfig}


@dataclass(frozen=True)
class Declared:
    """A checked suite and where it was written: `base` is the folder that its paths start from."""

    config: SuiteConfig
    base: Path
    where: str
    lines: Lines

    @contextmanager
    def naming(self, task: str) -> Iterator[None]:
        """Add file, line and task to a ConfigError about what was said of this task."""
        try:
            yield
        except ConfigError as error:
            raise _located(self.where, self.lines, ("tasks", task), str(error)) from None


def read_config(path: Path) -> Declared:
    """Read and check a suite file.

    Raises
    ------
    ConfigError: one sentence with the file, the line, where in it, and what was probably meant.
    """
    if not path.is_file():
        near = (
            did_you_mean(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else ""
        )
        raise ConfigError(f"{path}: no such file{near}")
    value, lines = load_yaml(path)
    return parse_config(value, path.parent, str(path), lines)


def parse_config(
    value: Any, base: Path = Path(), where: str = "suite", lines: Lines | None = None
) -> Declared:
    """Check a suite given as a mapping; `where` and `lines` say in messages where it was written.

    Raises
    ------
    ConfigError: see `read_config`.
    """
    lines = lines or {}
    if not isinstance(value, Mapping):
        raise _located(where, lines, (), "a suite is a mapping with the key `tasks`")
    tasks = value.get("tasks")
    for name in tasks if isinstance(tasks, Mapping) else ():
        at = ("tasks", str(name))
        if not isinstance(name, str):
            raise _located(where, lines, at, f"a task's name must be a text, not {name!r}")
        if not _TASK_NAME.fullmatch(name):
            raise _located(where, lines, at, "a task's name has letters, digits and `_ . + -` only")
    try:
        config = SuiteConfig.model_validate(value)
    except pydantic.ValidationError as error:
        # A misspelt key is often the cause of another that is missing.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        raise _located(where, lines, tuple(first["loc"]), _sentence(first)) from None
    for name, task in config.tasks.items():
        if task.data is None and config.data is None:
            raise _located(
                where, lines, ("tasks", name), "no `data`: a file, a folder or a dataset is needed"
            )
    return Declared(config, base, where, lines)


def _located(where: str, lines: Lines, at: tuple[Any, ...], problem: str) -> ConfigError:
    nearest = next((lines[at[:n]] for n in range(len(at), -1, -1) if at[:n] in lines), None)
    place = where if nearest is None else f"{where}, line {nearest}"
    return ConfigError(f"{place}: {'.'.join(map(str, at))}{': ' if at else ''}{problem}")


def _sentence(error: Any) -> str:
    """What pydantic found, in the words of somebody who has never heard of it."""
    at, given = error["loc"], error.get("input")
    if error["type"] == "extra_forbidden":
        parent = at[-2] if len(at) > 1 else ""
        model = _MODELS.get(parent if parent in _MODELS else "tasks", TaskConfig)
        near = did_you_mean(at[-1], model.model_fields)
        return f"unknown key {str(at[-1])!r}{near}; the keys are {listed(model.model_fields, limit=20)}"
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    message = error["msg"][0].lower() + error["msg"][1:]
    near = ""
    if error["type"] == "literal_error":
        near = did_you_mean(given, re.findall(r"'(\w+)'", error["ctx"]["expected"]))
    return f"{message}, not {given!r}{near}" if not isinstance(given, (dict, list)) else message
