"""YAML with the line of every key, and no key twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from taskheads.errors import ConfigError, DataError
from taskheads.tasks.readers.encoding import read_utf8

Lines = dict[tuple[Any, ...], int]


def load_yaml(path: Path) -> tuple[Any, Lines]:
    """Read a YAML file: its value, and the line of each key or item by its path (`("tasks", "intent")`).

    YAML asks for unique keys, but PyYAML keeps the last of two; here that is an error with both lines, since
    a task lost in silence is a task not trained.

    Raises
    ------
    ConfigError: the file is not there, is not YAML, or has a key twice (the message names file and line).
    """
    try:
        text = read_utf8(path)
    except DataError as error:
        raise ConfigError(str(error)) from None
    lines: Lines = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _walk(path, node, (), lines)
        return yaml.safe_load(text), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{place}: broken YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: broken YAML: {error}") from None


def _walk(path: Path, node: yaml.Node, at: tuple[Any, ...], lines: Lines) -> None:
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            _walk(path, item, (*at, i), lines)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = key.value, key.start_mark.line + 1
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                # `no:` would be False, `1:` a number and `1_0:` another.
                shown = name if isinstance(name, str) else "this"
                raise ConfigError(f"{path}, line {line}: a key must be a text: write {shown} in quotes")
            if name in seen and key.tag != "tag:yaml.org,2002:merge":
                kind = "task" if at == ("tasks",) else "key"
                raise ConfigError(
                    f"{path}, line {line}: the {kind} {name!r} is here twice, first on line {seen[name]}"
                )
            seen[name] = line
            lines[(*at, name)] = line
            _walk(path, value, (*at, name), lines)
