"""A merge as the user declares it, on the command line or in a YAML file.

    method: ties
    options: {density: 0.3}
    base: base/
    models:
      - ft-intents/
      - {path: ft-skills/, weight: 0.5}
      - {path: ft-search/, statistics: ft-search/fisher.safetensors}
    rules:                                    # the first that fits a tensor; what it leaves out stays
      - {layers: 0-3, method: linear, weights: [1, 0, 0]}
      - {tensors: "*.attention.*", options: {density: 0.1}}
    drop: ["classifier.*"]                    # tensors that have no part in it
    dtype: bfloat16
    keep: masks                               # of taskheads models: each task's own, over one shared copy
    recalibrate: true                         # with data: heads solved anew on what the trunk has become

or, in the place of method and models, layers of one or of several models on top of each other:

    slices:
      - {model: a/, layers: 0-5}
      - {model: b/, layers: 3-8}

Paths are relative to the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from taskheads import methods
from taskheads.errors import ConfigError
from taskheads.merging.files.stored import FLOATS
from taskheads.merging.learned.recipes import RECIPES, Recipe
from taskheads.merging.static.known import STATIC
from taskheads.merging.static.merge import Merge, fits, layer_of, made
from taskheads.tasks.suggest import did_you_mean, listed
from taskheads.tasks.yaml_file import load_yaml

_Strict = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _layers(value: Any) -> tuple[int, int]:
    """ "3-8" or 3, both ends included."""
    found = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", str(value))
    if not found:
        raise ValueError(f"layers are a number or a range such as 0-3, not {value!r}")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise ValueError(f"the range {value!r} ends before it begins")
    return first, last


def _entry(value: Any) -> Any:
    return {"path": value} if isinstance(value, str | Path) else value


def _dtype(value: Any) -> Any:
    if value is not None and value not in FLOATS.values():
        raise ValueError(f"{value!r} is none of {listed(sorted(FLOATS.values()))}")
    return value


Layers = Annotated[tuple[int, int], BeforeValidator(_layers)]


class Entry(BaseModel):
    """A model of the merge: its folder, its weight, and what the method needs to know of its data."""

    model_config = _Strict
    path: Path
    weight: float = 1.0
    statistics: Path | None = None


class Rule(BaseModel):
    """What is different for some tensors: those whose name fits a pattern, or of some layers."""

    model_config = _Strict
    tensors: str = "*"
    layers: Layers | None = None
    method: str | None = None
    weights: tuple[float, ...] | None = None
    options: dict[str, Any] | None = None

    def fits(self, name: str) -> bool:
        layer = layer_of(name)
        within = self.layers is None or (layer is not None and self.layers[0] <= layer <= self.layers[1])
        return within and fnmatchcase(name, self.tensors)


class Slice(BaseModel):
    """Layers of a model, both ends included."""

    model_config = _Strict
    model: Path
    layers: Layers


class Plan(BaseModel):
    """A merge: what is merged, how, and into what type. See the module for a YAML file of it."""

    model_config = _Strict
    method: str = "passthrough"
    options: dict[str, Any] = Field(default_factory=dict)
    base: Path | None = None
    models: tuple[Annotated[Entry, BeforeValidator(_entry)], ...] = ()
    rules: tuple[Rule, ...] = ()
    slices: tuple[Slice, ...] = ()
    drop: tuple[str, ...] = ()
    dtype: Annotated[str | None, BeforeValidator(_dtype)] = None
    keep: Literal["masks", "low_rank", "quantised"] | None = None
    rank: int | None = Field(default=None, ge=1)
    recalibrate: bool = False
    shard_gb: float = Field(default=5.0, gt=0)
    out: Path | None = None

    def check(self, *, has_base: bool | None = None, data: bool = False) -> None:
        """Raise ConfigError for a plan that cannot be meant; nothing is opened.

        `has_base` is whether models are told apart from a base although none is named, as adapters are;
        `data` whether there is some to learn from.
        """
        has_base = self.base is not None if has_base is None else has_base
        if self.slices and self.models:
            raise ConfigError("a plan has models or slices, not both")
        if self.slices and (self.method != "passthrough" or self.rules):
            raise ConfigError("slices are put on each other as they are: no method and no rules go with them")
        if self.keep == "masks" and not has_base:
            raise ConfigError("what is kept as masks is a difference to a base model: name the base")
        if self.recalibrate and not data:
            raise ConfigError("heads are solved anew on the tasks' rows: name them with --data")
        if self.learned is not None:
            if not data:
                raise ConfigError(f"{self.method} learns from the tasks' rows: name them with --data")
            if not has_base or len(self.models) < 2 or self.rules:
                raise ConfigError(f"{self.method} needs a base and two models or more, and takes no rules")
            return
        for merge, weights in self.ways():
            if not self.slices:
                fits(merge, len(self.models), has_base, weights)
            if merge.statistics and not data and any(each.statistics is None for each in self.models):
                raise ConfigError(
                    f"the method needs the {merge.statistics} statistics of every model, or --data"
                )

    @property
    def learned(self) -> Recipe | None:
        """How the method learns from data; None for one that does not."""
        if self.method not in RECIPES:
            return None
        return made(RECIPES[self.method], self.method, self.options)

    def way_of(self, name: str) -> int:
        """Which of `ways` is that of the tensor of this name."""
        return next((number for number, rule in enumerate(self.rules, 1) if rule.fits(name)), 0)

    def ways(self) -> list[tuple[Merge, tuple[float, ...]]]:
        """How tensors are merged (the method, and a weight for each model): first those that no rule fits,
        then those of each rule."""
        weights = tuple(entry.weight for entry in self.models)
        ways = [(made(tensor_method(self.method), self.method, self.options), weights)]
        for rule in self.rules:
            method, options = self.method, self.options
            if rule.method not in (None, self.method):
                method, options = str(rule.method), {}
            merge = made(tensor_method(method), method, options | (rule.options or {}))
            ways.append((merge, rule.weights or weights))
        return ways


def tensor_method(name: str) -> type[Merge]:
    """The class of a method that merges tensors of the same name.

    Raises ConfigError for an unknown name, and for a method of the catalogue that does something else.
    """
    if name in STATIC:
        return STATIC[name]
    known = {card.name: card for card in methods.catalogue() if card.family == "merging"}
    if name in RECIPES:
        raise ConfigError(f"{name} learns how whole models are merged: it cannot be a rule's method")
    if name in known:
        where = known[name].where.replace(":", ".")
        raise ConfigError(f"{name} needs {known[name].needs}, which no plan can say: call {where} in Python")
    raise ConfigError(
        f"no merging method is called {name!r}{did_you_mean(name, known)}; they are {listed(known, 40)}"
    )


def load_plan(path: Path) -> Plan:
    """The plan of a YAML file. Raises ConfigError, with the line, for what cannot be meant."""
    value, lines = load_yaml(path)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}: a plan is a table with `method` and `models`, or with `slices`")
    try:
        plan = Plan.model_validate(value)
    except pydantic.ValidationError as error:
        # A misspelt key is often the cause of another that is missing.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        at = tuple(first["loc"])
        line = next((lines[at[:n]] for n in range(len(at), -1, -1) if at[:n] in lines), 1)
        place = ".".join(map(str, at))
        raise ConfigError(f"{path}, line {line}: {place}: {_sentence(first, at)}") from None
    return _relative_to(plan, path.parent)


def _sentence(error: Any, at: tuple[Any, ...]) -> str:
    if error["type"] == "extra_forbidden":
        kinds: dict[str, type[BaseModel]] = {"models": Entry, "rules": Rule, "slices": Slice}
        fields = kinds.get(str(at[0]), Plan).model_fields if len(at) > 1 else Plan.model_fields
        return f"unknown key {str(at[-1])!r}{did_you_mean(at[-1], fields)}; the keys are {listed(fields, 20)}"
    if error["type"] == "missing":
        return "is missing"
    message = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    return message[0].lower() + message[1:]


def _relative_to(plan: Plan, folder: Path) -> Plan:
    def moved(path: Path | None) -> Path | None:
        return None if path is None else folder / path

    models = [
        entry.model_copy(update={"path": folder / entry.path, "statistics": moved(entry.statistics)})
        for entry in plan.models
    ]
    slices = [each.model_copy(update={"model": folder / each.model}) for each in plan.slices]
    # A base that is not beside the plan is a name, such as minilm.
    base = moved(plan.base) if plan.base is not None and (folder / plan.base).exists() else plan.base
    changed = {"base": base, "out": moved(plan.out)}
    return plan.model_copy(update=changed | {"models": tuple(models), "slices": tuple(slices)})
