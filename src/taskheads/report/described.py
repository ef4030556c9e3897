"""A method in full: its mechanism, when it helps, what may be set, and an example, told from its own code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from taskheads.methods import Card, resolve
from taskheads.report.families import FAMILY

_SENTENCES = 3
# What a caller hands over rather than sets.
_GIVEN = ("self", "backbone", "tasks", "n_tasks")
# A full stop at the end of a sentence, and not of "et al." or of an initial.
_END = re.compile(r"(?<!\bal\.)(?<!\b[A-Z]\.)(?<=[.!?)])\s+(?=[A-Z0-9`\"])")


@dataclass(frozen=True)
class Described:
    """What is told of a method beyond its card.

    mechanism: a few sentences. use, avoid: when to take it and when not, what holds for its whole family
    first. parameters: what may be set, by name
    with the default as Python has it. about: what its docstring says of them. example: lines that run.
    """

    mechanism: str
    use: tuple[str, ...]
    avoid: tuple[str, ...]
    parameters: dict[str, str]
    about: str
    example: str


def described(card: Card) -> Described:
    """Import the method, and read what it says of itself."""
    found = resolve(card.name)
    prose, about = _prose(inspect.getdoc(found) or "")
    family = FAMILY[card.family]
    traits, limits = _traits(card, found)
    return Described(
        mechanism=" ".join(_END.split(prose)[:_SENTENCES]),
        use=(family.use, *traits),
        avoid=(family.avoid, *limits),
        parameters=_parameters(found),
        about=about,
        example=_example(card),
    )


def _prose(docstring: str) -> tuple[str, str]:
    """A docstring's paragraphs before its sections, on one line, and its section of parameters."""
    before, *sections = re.split(r"^(\w[\w ]*)\n-{3,}\n", docstring, flags=re.MULTILINE)
    named = dict(zip(sections[::2], sections[1::2], strict=True))
    return " ".join(before.split()), " ".join(named.get("Parameters", "").split())


def _parameters(found: Callable[..., Any]) -> dict[str, str]:
    """What has a default, those of a class's parents included."""
    makers = [vars(each).get("__init__") for each in found.__mro__] if isinstance(found, type) else [found]
    parameters: dict[str, str] = {}
    for maker in makers:
        if not inspect.isfunction(maker):
            continue
        for name, given in inspect.signature(maker).parameters.items():
            if name not in _GIVEN and given.default is not given.empty:
                parameters.setdefault(name, repr(given.default))
    return parameters


def _traits(card: Card, found: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """What the code itself tells of when a method helps and when not."""
    from taskheads.edits.edit import Edit

    use: list[str] = []
    avoid: list[str] = []
    if card.applies_to != ("any",):
        use.append(f"For tasks of the kind {' or '.join(card.applies_to)}.")
    if isinstance(found, type) and issubclass(found, Edit):
        if found.shared:
            avoid.append("Its tasks share it: a task that comes later is not part of it.")
        else:
            use.append("Each task has its own: tasks come and go one at a time.")
        if found.fold is not Edit.fold:
            use.append("It folds into the weights, so that one task alone is served at no cost.")
        else:
            avoid.append("It stays beside the weights, and takes its time at serving.")
        if found.stages > 1:
            avoid.append(f"It trains in {found.stages} stages, which share the time.")
    return use, avoid


def _example(card: Card) -> str:
    """How the method is asked for: of a fit where it is a way of fitting, else where it is in the package."""
    from taskheads.compare.ways import way_of

    way = way_of(card.name)
    if way is None or way.merges:
        module, _, name = card.where.partition(":")
        return f"from {module} import {name}"
    if way.training == {"tune": card.name}:
        return f'import taskheads as th\n\nmodel = th.fit("tasks.yaml", tune="{card.name}")'
    said = ", ".join(f'"{key}": "{value}"' for key, value in way.training.items())
    return f'import taskheads as th\n\nmodel = th.fit("tasks.yaml", training={{{said}}})'
