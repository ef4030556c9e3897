"""Ways of fitting a suite, made from the catalogue: what is compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from taskheads.backbone.backbone import Backbone
from taskheads.edits.edit import Edit
from taskheads.errors import ConfigError, TaskheadsError
from taskheads.methods import FAMILIES, catalogue, resolve
from taskheads.sharing.balancer import Balancer
from taskheads.sharing.weighting import LossWeighting
from taskheads.tasks.suggest import did_you_mean, listed
from taskheads.tasks.suite import Suite
from taskheads.training.joint.editing import TUNES, asked_edits, edits_for, serves
from taskheads.training.joint.joining import joining_of
from taskheads.training.joint.recipe import Recipe


@dataclass(frozen=True)
class Way:
    """One way of fitting a suite.

    method: whose way it is: a method's name, "frozen", "full" or "auto". training: what it says of the
    training, `tune` among it. options: of the edit, where the method is one.
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

    def applied(self, suite: Suite) -> Suite:
        """The suite as `fit` takes it for this way; what the suite says itself of an edit gives way."""
        edit = (self.method, dict(self.options)) if self.options else None
        tasks = {
            name: replace(data, edit=edit if edit and serves(self.method, data.task.kind) else None)
            for name, data in suite.tasks.items()
        }
        return replace(suite, tasks=tasks, training=suite.training | dict(self.training))

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, "training": dict(self.training), "options": dict(self.options)}


def _plain(method: str) -> dict[str, Any] | None:
    """What the training says of a method as it is by default; None for one that is no way of fitting."""
    if method in TUNES:
        return {"tune": method}
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


def chosen(methods: Sequence[str] | None, family: str | None) -> list[Way]:
    """The ways of the methods that were named, or else of a family, or else "frozen", "full" and all edits.

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
        named = [card.name for card in cards if card.family == (family or "edits")]
        ways = [way for name in ["frozen", "full", *named] if (way := way_of(name)) is not None]
        if family is not None and len(ways) == 2:
            raise ConfigError(f"no method of the family {family} is a way of fitting a suite")
        return ways
    known = [*TUNES, *(card.name for card in cards)]
    ways = []
    for name in dict.fromkeys(["frozen", *methods]):
        if name not in known:
            raise ConfigError(f"no method is called {name!r}{did_you_mean(name, known)}")
        found = way_of(name)
        if found is None:
            raise ConfigError(f"{name} is no way of fitting a suite: see `taskheads methods show {name}`")
        ways.append(found)
    return ways


def distinct(ways: Iterable[Way], suite: Suite) -> tuple[list[Way], dict[str, str]]:
    """The ways that do not train the very same as one before them, and which that is for the others."""
    found: dict[str, Way] = {}
    same: dict[str, str] = {}
    for way in ways:
        recipe = Recipe.of(suite.training, **way.training).model_dump()
        first = found.setdefault(repr((recipe, way.options)), way)
        if first is not way:
            same[way.method] = f"trains the very same as {first.method}"
    return list(found.values()), same


def unfit(way: Way, suite: Suite, backbone: Backbone) -> str | None:
    """Why a way cannot be taken for this suite on this backbone, in a sentence; None where it can."""
    applied = way.applied(suite)
    try:
        recipe = Recipe.of(applied.training)
        asked = asked_edits(applied, recipe.tune)
        edits_for(backbone, asked)
        if len(suite.tasks) < 2 and _plain(way.method) != {"tune": way.method}:
            return f"{way.method} is about tasks that share a backbone, and there is one task"
        joining_of(backbone, list(suite.tasks), recipe)
    except TaskheadsError as error:
        return str(error)
    return None


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return "|".join("+".join(each) if isinstance(each, list | tuple) else str(each) for each in value)
    return str(value)
