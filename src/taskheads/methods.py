"""The catalogue: every method, what it does, its paper, and the tests which are its evidence.

A method is a class or a function with a decorator and a docstring::

    @method("duo_attention", family="cache", paper="arXiv:2410.10819")
    class DuoAttention:
        \"\"\"Keep all keys and values of retrieval heads, and a window of those of streaming heads.\"\"\"

`catalogue()` reads the cards from the sources without importing them, so that the list is there at once,
however heavy the methods are; `resolve(name)` imports one and returns it.

The evidence of a method are the tests marked `@pytest.mark.method("duo_attention")`. An installed package
has no tests beside it, so their names are kept in `evidence.json`; `python -m taskheads.methods
--write-evidence`, in a checkout, writes it again.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from taskheads.errors import ConfigError

FAMILIES = (
    *("heads", "edits", "sharing", "merging", "inspect", "steer", "designs", "cache"),
    *("compress", "continual", "prompting", "data", "trust", "modalities", "routing"),
)
PACKAGE = Path(__file__).resolve().parent
EVIDENCE = PACKAGE / "evidence.json"

_Method = TypeVar("_Method", bound=Callable[..., Any])
_registered: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True)
class Card:
    """What a method says of itself.

    Parameters
    ----------
    name: its slug, unique in the catalogue: lower case, digits, underscores.
    family: one of `FAMILIES`.
    summary: the first paragraph of its docstring, on one line.
    paper: where it was published: "arXiv:2410.10819", a DOI, or a citation.
    applies_to: the kinds of task it is for, or "any".
    where: "module:name" of the class or function.
    needs: what it needs beside a suite of tasks and a backbone: "a model aligned for safety".
    """

    name: str
    family: str
    summary: str
    paper: str
    applies_to: tuple[str, ...]
    where: str
    needs: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(
                f"{self.where}: method name {self.name!r} is not lower case, digits and underscores"
            )
        if self.family not in FAMILIES:
            raise ValueError(f"{self.where}: method {self.name!r} is of no known family: {self.family!r}")
        if not (isinstance(self.applies_to, tuple) and self.applies_to):
            raise ValueError(f"{self.where}: `applies_to` of method {self.name!r} must be a tuple of names")
        for part in ("summary", "paper"):
            if not getattr(self, part):
                raise ValueError(f"{self.where}: method {self.name!r} has no {part}")

    @property
    def evidence(self) -> tuple[str, ...]:
        """Node ids of the tests that are this method's evidence ("tests/heads/test_x.py::test_y")."""
        return _recorded_evidence().get(self.name, ())

    def to_json(self) -> dict[str, Any]:
        """The card as plain data, evidence included."""
        return asdict(self) | {"applies_to": list(self.applies_to), "evidence": list(self.evidence)}


def method(
    name: str, *, family: str, paper: str, applies_to: tuple[str, ...] = ("any",), needs: str = ""
) -> Callable[[_Method], _Method]:
    """Give a class or function a card (`card_of` reads it) and a name by which `resolve` finds it.

    The arguments must be literals, and the class or function must stand at the top of its module:
    `catalogue()` reads them from the source.
    """

    def attach(thing: _Method) -> _Method:
        where = f"{thing.__module__}:{thing.__qualname__}"
        card = _card(name, family, paper, applies_to, needs, thing.__doc__, where)
        other = _registered.get(name)
        if other is not None and card_of(other).where != where:  # the same place again is a module reloaded
            raise ValueError(f"two methods are called {name!r}: {card_of(other).where} and {where}")
        thing.__card__ = card  # type: ignore[attr-defined]
        _registered[name] = thing
        return thing

    return attach


def card_of(thing: Callable[..., Any]) -> Card:
    """The card of a decorated class or function. A subclass does not inherit its parent's."""
    card = vars(thing).get("__card__")
    if card is None:
        raise ValueError(f"{thing!r} is not a method: it has no @method decorator")
    return card


def catalogue(root: Path = PACKAGE) -> list[Card]:
    """The cards of all methods in the package at `root`, by family and name. Nothing is imported, and sources
    are read once."""
    return list(_catalogue(root))


@cache
def _catalogue(root: Path) -> tuple[Card, ...]:
    cards: dict[str, Card] = {}
    for path in sorted(root.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if not re.search(r"^@(?:methods\.)?method\(", source, re.MULTILINE):
            continue  # parsing is what takes time
        for card in _cards_in(source, path.relative_to(root.parent)):
            if card.name in cards:
                raise ValueError(
                    f"two methods are called {card.name!r}: {cards[card.name].where} and {card.where}"
                )
            cards[card.name] = card
    return tuple(sorted(cards.values(), key=lambda card: (FAMILIES.index(card.family), card.name)))


def find(name: str) -> Card:
    """The card of that name; a `ConfigError` with the nearest name if there is none."""
    cards = {card.name: card for card in catalogue()}
    if name not in cards:
        raise _unknown(name, list(cards))
    return cards[name]


def resolve(name: str) -> Callable[..., Any]:
    """The class or function of that name: imported from the package, or decorated by the user's own code."""
    if name not in _registered:
        importlib.import_module(find(name).where.partition(":")[0])
    return _registered[name]


def scan_evidence(tests: Path) -> dict[str, list[str]]:
    """Method name → node ids of the tests marked with it, read from the sources of a `tests` folder.

    A mark may stand on a function, on a class of tests, or in a module's `pytestmark`.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(tests.rglob("test_*.py")):
        source = path.read_text(encoding="utf-8")
        if "mark.method(" in source:
            file = path.relative_to(tests.parent).as_posix()
            for slug, node_id in _marked(ast.parse(source, path).body, file, []):
                found[slug].append(node_id)
    return {slug: found[slug] for slug in sorted(found)}


def main(arguments: list[str] | None = None) -> int:
    """Write `evidence.json` again, from the tests beside this checkout."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments != ["--write-evidence"]:
        print("usage: python -m taskheads.methods --write-evidence", file=sys.stderr)
        return 2
    tests = PACKAGE.parents[1] / "tests"
    if not tests.is_dir():
        print(f"there is no {tests}: evidence is written in a checkout", file=sys.stderr)
        return 2
    EVIDENCE.write_text(evidence_text(scan_evidence(tests)), encoding="utf-8", newline="\n")
    return 0


def evidence_text(evidence: dict[str, list[str]]) -> str:
    """The contents of `evidence.json`: a line for each test, so that changes by many hands merge well."""
    return json.dumps(evidence, indent=1) + "\n"


@cache
def _recorded_evidence() -> dict[str, tuple[str, ...]]:
    return {slug: tuple(ids) for slug, ids in json.loads(EVIDENCE.read_text(encoding="utf-8")).items()}


def _cards_in(source: str, path: Path) -> Iterator[Card]:
    """The cards of one module, exactly as its decorators would make them; `path` begins with the package."""
    parts = path.with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    for node in ast.parse(source, path).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if not (isinstance(call, ast.Call) and _dotted(call.func) in {"method", "methods.method"}):
                continue
            where = f"{module}:{node.name}"
            try:
                values = [ast.literal_eval(argument) for argument in call.args]
                options = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            except ValueError:
                raise ValueError(
                    f"{where}, line {call.lineno}: the arguments of @method must be literals"
                ) from None
            given = inspect.signature(method).bind(*values, **options)
            given.apply_defaults()
            yield _card(**given.arguments, docstring=ast.get_docstring(node), where=where)


def _card(
    name: str,
    family: str,
    paper: str,
    applies_to: tuple[str, ...],
    needs: str,
    docstring: str | None,
    where: str,
) -> Card:
    summary = " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())
    return Card(name, family, summary, paper, applies_to, where, needs)


def _marked(body: list[ast.stmt], owner: str, inherited: list[str]) -> Iterator[tuple[str, str]]:
    """(slug, node id) for the tests in a module's or a class's body."""
    marks = [*inherited]
    for node in body:
        if isinstance(node, ast.Assign) and [_dotted(target) for target in node.targets] == ["pytestmark"]:
            listed = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
            marks += _slugs(listed)
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from _marked(node.body, f"{owner}::{node.name}", marks + _slugs(node.decorator_list))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            for slug in dict.fromkeys(marks + _slugs(node.decorator_list)):
                yield slug, f"{owner}::{node.name}"


def _slugs(marks: list[ast.expr]) -> list[str]:
    """The arguments of those expressions that are `pytest.mark.method(...)`."""
    calls = [mark for mark in marks if isinstance(mark, ast.Call)]
    return [
        ast.literal_eval(argument)
        for call in calls
        if _dotted(call.func).endswith("mark.method")
        for argument in call.args
    ]


def _dotted(node: ast.expr) -> str:
    """`pytest.mark.method` as text; "" for what is not a chain of names."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _unknown(name: str, known: list[str]) -> ConfigError:
    from difflib import get_close_matches  # needed only when something is wrong

    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`taskheads methods` lists those there are"
    return ConfigError(f"no method is called {name!r}: {hint}")


if __name__ == "__main__":
    sys.exit(main())
