"""Ways of fitting a suite, made from the catalogue: what is compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit
from taskheads.errors import ConfigError, TaskheadsError
from taskheads.merging.learned.recipes import RECIPES
from taskheads.merging.plan import Entry, Plan
from taskheads.merging.static.known import STATIC
from taskheads.methods import FAMILIES, Card, catalogue, find, resolve
from taskheads.sharing.balancer import Balancer
from taskheads.sharing.weighting import LossWeighting
from taskheads.tasks.suggest import did_you_mean, listed
from taskheads.tasks.suite import Suite
from taskheads.training.joint.editing import TUNES, asked_edits, edits_for, serves
from taskheads.training.joint.joining import joining_of
from taskheads.training.joint.precision import check_bits
from taskheads.training.joint.recipe import Recipe, said_over

# What a way tunes that is merged from the models of others.
_MERGED = "merged"
# Why methods of a family are no ways of fitting.
_NO_WAY = {
    "heads": "a task of its kind has it by itself",
    "sharing": "it is a measure, or a part of other methods, and trains nothing by itself",
    "inspect": "it tells what attention heads do, and makes no model of the tasks",
    "steer": "it changes answers at inference, and makes no model of the tasks",
    "trust": "it is about how sure an answer is, once a model is fitted",
}


@dataclass(frozen=True)
class Way:
    """One way of fitting a suite.

    method: whose way it is: a method's name, "frozen", "full" or "auto". training: what it says of the
    training, `tune` among it. options: of the edit or the merge, where the method is one.
    """

    method: str
    training: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The method, and after it what was set apart from its defaults: "lora rank=4"."""
        plain = _plain(self.method) or {}
        said = {key: each for key, each in self.training.items() if key not in plain}
        apart = {**self.options, **said}.items()
        return " ".join([self.method, *(f"{key}={_short(each)}" for key, each in apart)])

    @property
    def key(self) -> str:
        """What identifies it in the name of a file."""
        digest = hashlib.blake2b(json.dumps(self.to_json(), sort_keys=True).encode(), digest_size=4)
        return f"{self.method}-{digest.hexdigest()}"

    @property
    def merges(self) -> bool:
        """Whether it is a merge of models, one for each task, that `apart` makes; `fit` makes all others."""
        return self.training["tune"] == _MERGED

    def plan(self, models: Sequence[Path], base: Path) -> Plan:
        """The merge of these models, for a way that is one."""
        entries = tuple(Entry(path=path) for path in models)
        return Plan(method=self.method, options=dict(self.options), base=base, models=entries)

    def applied(self, suite: Suite) -> Suite:
        """The suite as `fit` takes it for this way; what the suite says itself of an edit gives way."""
        edit = (self.method, dict(self.options)) if self.options else None
        tasks = {
            name: replace(data, edit=edit if edit and serves(self.method, data.task.kind) else None)
            for name, data in suite.tasks.items()
        }
        return replace(suite, tasks=tasks, training=said_over(suite.training, self.training))

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, "training": dict(self.training), "options": dict(self.options)}


def _plain(method: str) -> dict[str, Any] | None:
    """What the training says of a method as it is by default; None for one that is no way of fitting."""
    if method in TUNES:
        return {"tune": method}
    if method in STATIC or method in RECIPES:
        return {"tune": _MERGED}
    found = resolve(method)
    if isinstance(found, type):
        if issubclass(found, Edit):
            return {"tune": method}
        if issubclass(found, Balancer):
            return {"tune": "full", "balance": method, "weighting": "equal"}
        if issubclass(found, LossWeighting):
            return {"tune": "full", "weighting": method, "balance": "none"}
    sampling = method.removesuffix("_sampling")
    if sampling != method and sampling in get_args(Recipe.model_fields["sampling"].annotation):
        return {"tune": "full", "sampling": sampling}
    return None


def way_of(method: str) -> Way | None:
    """The method's way at its defaults; None for a method that is no way of fitting a suite: a measure, a
    head that every fit of its kind has, what is done to a model once it is fitted."""
    plain = _plain(method)
    return None if plain is None else Way(method, plain)


def why_no_way(card: Card) -> str:
    """Why a method is no way of fitting a suite, in half a sentence."""
    if card.needs:
        return f"it needs {card.needs}"
    return _NO_WAY.get(card.family, f"see `taskheads methods show {card.name}`")


def apart(tasks: Iterable[str]) -> Way:
    """A backbone for each task, fine-tuned for it alone: what merges are made of."""
    return Way("full", {"tune": "full", "groups": [[task] for task in tasks]})


def chosen(methods: Sequence[str] | None, family: str | None) -> tuple[list[Way], dict[str, str]]:
    """The ways of the methods that were named, or else of a family, or else "frozen", "full" and all edits;
    and why other methods of the family are none.

    Raises ConfigError for a name that there is not, with the nearest, and for a method or a family that is no
    way of fitting.
    """
    cards = catalogue()
    if methods is None:
        if family is not None and family not in FAMILIES:
            raise ConfigError(
                f"there is no family {family!r}{did_you_mean(family, FAMILIES)}; "
                f"the families are {listed(FAMILIES, 99)}"
            )
        mine = [card for card in cards if card.family == (family or "edits")]
        found = {card.name: way_of(card.name) for card in mine}
        ways = [way for way in (way_of("frozen"), way_of("full"), *found.values()) if way is not None]
        if len(ways) == 2:
            raise ConfigError(f"no method of the family {family} is a way of fitting a suite")
        return ways, {card.name: why_no_way(card) for card in mine if found[card.name] is None}
    known = [*TUNES, *(card.name for card in cards)]
    ways = []
    for name in dict.fromkeys(["frozen", *methods]):
        if name not in known:
            raise ConfigError(f"no method is called {name!r}{did_you_mean(name, known)}")
        way = way_of(name)
        if way is None:
            raise ConfigError(f"{name} is no way of fitting a suite: {why_no_way(find(name))}")
        ways.append(way)
    return ways, {}


def distinct(ways: Iterable[Way], suite: Suite) -> tuple[list[Way], dict[str, str]]:
    """The ways that do not train the very same as one before them, and which that is for the others."""
    found: dict[str, Way] = {}
    same: dict[str, str] = {}
    for way in ways:
        recipe = Recipe.of(suite.training, **way.training).model_dump()
        first = found.setdefault(repr((recipe, way.options, way.method if way.merges else "")), way)
        if first is not way:
            same[way.method] = f"trains the very same as {first.method}"
    return list(found.values()), same


def unfit(way: Way, suite: Suite, backbone: Backbone) -> str | None:
    """Why a way cannot be taken for this suite on this backbone, in a sentence; None where it can."""
    try:
        if way.merges:
            check_bits(backbone, "full")  # what is merged is tuned first
            return _unmerged(way, suite)
        applied = way.applied(suite)
        recipe = Recipe.of(applied.training)
        check_bits(backbone, recipe.tune, alone=recipe.alone)
        asked = asked_edits(applied, recipe.tune)
        edits_for(backbone, asked)
        if len(suite.tasks) < 2 and _plain(way.method) != {"tune": way.method}:
            return f"{way.method} is about tasks that share a backbone, and there is one task"
        joining_of(backbone, list(suite.tasks), recipe)
    except TaskheadsError as error:
        return str(error)
    return None


def _unmerged(way: Way, suite: Suite) -> str | None:
    if len(suite.tasks) < 2:
        return f"{way.method} makes one model of several, each of a task, and there is one task"
    way.plan([Path(name) for name in suite.tasks], Path("base")).check(data=True)
    return None


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        if len(value) > 1 and all(isinstance(each, list | tuple) and len(each) == 1 for each in value):
            return "apart"
        return "|".join("+".join(each) if isinstance(each, list | tuple) else str(each) for each in value)
    return str(value)
