"""Read what is documented in a library's sources, with `ast` alone: nothing is imported, nothing runs."""

from __future__ import annotations

import ast
import hashlib
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SKIPPED_FOLDERS = {
    *("test", "tests", "testing", "_testing", "benchmarks"),
    *("vendor", "_vendor", "vendored", "_vendored", "extern", "external", "externals", "third_party"),
    *("array_api_compat", "array_api_extra", "pyprima", "highspy", "cobyqa"),  # copies in scipy and sklearn
    *("_generated", "generated"),
}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Item:
    """One documented function, class, method or property.

    `parameters` are the names which the caller gives, with no `self` or `cls`; a class has its `__init__`'s.
    None where the code does not say: a class without an `__init__` of its own, a property.
    """

    library: str
    module: str
    qualname: str
    thing: str
    parameters: tuple[str, ...] | None
    docstring: str


def stable(text: str) -> str:
    """A hash to order by: as good as random, and the same everywhere."""
    return hashlib.sha256(text.encode()).hexdigest()


def modules(site_packages: Path, library: str) -> list[tuple[str, Path]]:
    """The library's modules, (dotted name, file), in an order which has nothing to do with their names."""
    root = site_packages / library
    found = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(site_packages).with_suffix("").parts
        stem = parts[-1]
        if _SKIPPED_FOLDERS.intersection(parts[1:]) or stem.startswith("test_") or stem == "conftest":
            continue
        found.append((".".join(parts[:-1] if stem == "__init__" else parts), path))
    return sorted(found, key=lambda entry: stable(entry[0]))


def items(library: str, module: str, path: Path) -> list[Item]:
    """What is public and documented in one file, in the order of the file; none if it cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning: invalid escape sequences in others' code
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return []
    return list(_documented(tree.body, library, module, owner=""))


def _documented(body: list[ast.stmt], library: str, module: str, owner: str) -> Iterator[Item]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _documented(node.body + node.orelse, library, module, owner)
        if not isinstance(node, ast.ClassDef | _Function) or node.name.startswith("_"):
            continue
        qualname = f"{owner}.{node.name}" if owner else node.name
        thing, parameters = _described(node, in_class=bool(owner))
        docstring = ast.get_docstring(node, clean=False)
        if thing and docstring and docstring.strip():
            yield Item(library, module, qualname, thing, parameters, inspect.cleandoc(docstring))
        if isinstance(node, ast.ClassDef):
            yield from _documented(node.body, library, module, qualname)


def _described(node: ast.ClassDef | _Function, in_class: bool) -> tuple[str, tuple[str, ...] | None]:
    """What the node is, and its parameters. "" for what is only half of something: overloads, setters."""
    if isinstance(node, ast.ClassDef):
        for member in node.body:
            if isinstance(member, _Function) and member.name == "__init__":
                return "class", _parameters(member, bound=True)
        return "class", None
    decorators = [_last_name(d) for d in node.decorator_list]
    if {"overload", "setter", "deleter", "getter"}.intersection(decorators):
        return "", None
    if not in_class:
        return "function", _parameters(node, bound=False)
    if any("property" in d or d == "cache_readonly" for d in decorators):
        return "property", None
    return "method", _parameters(node, bound="staticmethod" not in decorators)


def _parameters(node: _Function, bound: bool) -> tuple[str, ...]:
    """The names in a signature in their order, without the first (`self`, `cls`) if it is bound."""
    a = node.args
    positional = [*a.posonlyargs, *a.args]
    kept = positional[1:] if bound else positional
    extra = [a.vararg, *a.kwonlyargs, a.kwarg]
    return tuple(argument.arg for argument in [*kept, *extra] if argument)


def _last_name(decorator: ast.expr) -> str:
    """`functools.cached_property` → "cached_property"; `doc(...)` → "doc"."""
    if isinstance(decorator, ast.Call):
        decorator = decorator.func
    if isinstance(decorator, ast.Attribute):
        return decorator.attr
    return decorator.id if isinstance(decorator, ast.Name) else ""
