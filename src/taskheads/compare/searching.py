"""Candidates that nobody named: options, rates, layers and groups of tasks, proposed by what was seen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from taskheads.backbone.backbone import Backbone
from taskheads.compare.halving import FACTOR
from taskheads.compare.ways import Way
from taskheads.edits.edit import Edit, defaults_of, edit_class
from taskheads.errors import ConfigError
from taskheads.merging.learned.recipes import RECIPES
from taskheads.merging.static.known import STATIC
from taskheads.training.joint.editing import TUNES
from taskheads.training.joint.recipe import Recipe

# How far from its default a number is looked for, up and down.
_APART = 4
_RATES_APART = 8
# Which tasks share a tuned backbone: all, those whose gradients are alike, or none with another.
_GROUPS = ("together", "alike", "apart")

Groups = Sequence[Sequence[str]]
Space = dict[str, tuple[Any, Any]]  # by name: optuna's distribution, and the default


class Search:
    """Proposes `count` variants of the best third of the ways in turn, each by a tree-structured Parzen
    estimator (Bergstra et al. 2011, in optuna) over what may be set of it.

    What may be set follows from a method's own signature: options whose default is a number or a truth value.
    Beside that, the learning rate; and where the backbone is tuned, how many of its layers stay as all tasks
    have them, and which tasks share the tuned ones.

    Raises ConfigError where optuna is not installed.
    """

    def __init__(self, count: int, backbone: Backbone, tasks: Sequence[str], seed: int) -> None:
        self.count, self.backbone, self.tasks, self.seed = count, backbone, list(tasks), seed
        self._studies: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}
        self._told: set[str] = set()
        self._turn = 0
        if count:
            try:
                import optuna
            except ImportError:
                raise ConfigError("to search, install optuna: pip install 'taskheads[search]'") from None
            optuna.logging.set_verbosity(optuna.logging.WARNING)

    def ask(self, seen: Sequence[tuple[Way, float]], groups: Groups | None) -> Way | None:
        """The next way to try; None where nothing has ended that could be varied.

        seen: those that have ended with how good they were, the best first. groups: of tasks that are alike,
        where that is known.
        """
        for way, value in seen:
            self._tell(way, value)
        best = list(dict.fromkeys(way.method for way, _ in seen if way.method != "frozen"))
        best = best[: math.ceil(len(best) / FACTOR)]
        if not best:
            return None
        method = best[self._turn % len(best)]
        self._turn += 1
        trial = self._study(method).ask({name: each for name, (each, _) in self._space(method).items()})
        way = self._way(method, trial.params, groups)
        self._asked.setdefault(way.key, trial)
        return way

    def _tell(self, way: Way, value: float) -> None:
        if way.key in self._told or way.method == "frozen":
            return
        self._told.add(way.key)
        study = self._study(way.method)
        if way.key in self._asked:
            study.tell(self._asked[way.key], value)
            return
        from optuna.trial import create_trial

        space = self._space(way.method)
        params = {name: default for name, (_, default) in space.items()}
        distributions = {name: each for name, (each, _) in space.items()}
        study.add_trial(create_trial(params=params, distributions=distributions, value=value))

    def _study(self, method: str) -> Any:
        if method not in self._studies:
            import optuna

            sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=4)
            self._studies[method] = optuna.create_study(direction="maximize", sampler=sampler)
        return self._studies[method]

    def _space(self, method: str) -> Space:
        return space_of(method, self.backbone.n_layers, len(self.tasks))

    def _way(self, method: str, values: dict[str, Any], groups: Groups | None) -> Way:
        from taskheads.compare.ways import way_of

        plain = way_of(method)
        assert plain is not None
        training = dict(plain.training)
        options = {}
        for name, value in values.items():
            if name == "groups":
                grouped = {"together": None, "alike": groups, "apart": [[task] for task in self.tasks]}[value]
                training |= {} if grouped is None else {"groups": grouped}
            elif name in Recipe.model_fields:
                training[name] = value
            else:
                options[name] = value
        return Way(method, training, options)


def space_of(method: str, layers: int, tasks: int) -> Space:
    """What may be set of a method on a backbone with so many layers, for so many tasks."""
    from optuna.distributions import CategoricalDistribution as Choice
    from optuna.distributions import FloatDistribution as Real
    from optuna.distributions import IntDistribution as Whole

    def around(default: float, times: float, most: float = math.inf) -> tuple[Any, float]:
        return Real(default / times, min(default * times, most), log=True), default

    plain, kind = Recipe(), kind_of(method)
    if kind is None:
        found: Space = {
            "lr": around(plain.lr, _RATES_APART),
            "frozen_layers": (Whole(0, layers - 1), plain.frozen_layers),
        }
        return found | ({"groups": (Choice(_GROUPS), "together")} if tasks > 1 else {})
    found = {"edit_lr": around(kind.lr, _RATES_APART)} if issubclass(kind, Edit) else {}
    for name, default in numbers_of(kind).items():
        if isinstance(default, bool):
            found[name] = Choice([False, True]), default
        elif isinstance(default, int):
            found[name] = Whole(max(1, default // _APART), default * _APART, log=True), default
        else:
            found[name] = around(default, _APART, most=0.99 if default < 1 else math.inf)
    return found


def numbers_of(kind: type) -> dict[str, Any]:
    """The options of a class whose defaults are truth values or numbers above 0, with these."""
    merge = dataclasses.is_dataclass(kind)
    options = {each.name: each.default for each in dataclasses.fields(kind)} if merge else defaults_of(kind)
    return {
        name: default
        for name, default in options.items()
        if isinstance(default, bool) or (isinstance(default, int | float) and default > 0)
    }


def kind_of(method: str) -> type | None:
    """The class whose options are a method's: of an edit, of a merge; None for all others."""
    from taskheads.compare.ways import way_of

    way = way_of(method)
    if way is not None and way.merges:
        return STATIC.get(method) or RECIPES[method]
    edit = way is not None and way.training == {"tune": method} and method not in TUNES
    return edit_class(method) if edit else None
