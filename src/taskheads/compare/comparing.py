"""The comparison: candidates run cheap first, the best go on, and only those at the end see the test rows."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.cache import FeatureCache
from taskheads.compare.bench import Bench
from taskheads.compare.crew import Beside, Crew, Here
from taskheads.compare.front import front, in_words
from taskheads.compare.judging import judged_on_test
from taskheads.compare.ledger import FOUND, VERSION, Ledger, write_json, write_text
from taskheads.compare.race import MODELS, Race
from taskheads.compare.recommending import recommended
from taskheads.compare.searching import Search
from taskheads.compare.ways import Way, apart, chosen, distinct, unfit
from taskheads.errors import ConfigError
from taskheads.model.features import Progress
from taskheads.tasks.suite import Suite, load_suite
from taskheads.tasks.task import TaskData
from taskheads.training.joint.recipe import said_over
from taskheads.training.telling import machine

RECOMMENDED = "recommended.yaml"


def compare(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | Suite,
    *,
    out: str | Path,
    methods: Sequence[str] | None = None,
    family: str | None = None,
    budget: float = 20.0,
    seeds: int = 1,
    search: int = 0,
    jobs: int = 1,
    backbone: str | Backbone | None = None,
    training: Mapping[str, Any] | None = None,
    resume: bool = False,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Which way of fitting is best for these tasks, on these rows, in this time.

    Every candidate is what `fit` makes: a task keeps its frozen head where tuning does not help it on dev
    (but under "full"). Candidates run on a part of the train and dev rows first; the best third goes on to
    three times as many (see `halving`), by the mean of the tasks' dev scores over all seeds. The best of all
    is trained on all rows, in what is left of the budget, and others, the best first, where there is time to
    train them no less far than before. The heads on the frozen backbone and full fine-tuning, if it is a
    candidate, are always there, as what the others are measured by. Those that reach all rows are judged on
    test, once.

    Parameters
    ----------
    source, backbone, cache: as `fit` takes them. training: over what the source says, for all candidates.
    out: a folder. It gets `comparison.json`, `recommended.yaml`, `model` (what was recommended), and `runs`,
        by which a comparison that was stopped is resumed.
    methods: names from the catalogue, and "frozen", "full", "auto". family: all methods of this family that
        are ways of fitting, and "full". By default the family "edits". A merge is a way, too: for all of them
        together each task is fine-tuned alone, once, which is a way of its own ("full groups=apart").
    budget: minutes of the clock, loading and the test rows left out. No run is begun that by what was
        measured would not be over by then, and a training that still goes on then is stopped after its step.
        The heads on the frozen backbone are solved for whatever that takes, and a merge is not stopped.
    seeds: how often each candidate is run: seeds from the suite's on.
    search: further candidates on the first rung: options, learning rates, layers that are shared, and groups
        of tasks, proposed by what was seen before.
    jobs: processes; 1 is this one alone.

    Returns
    -------
    What `comparison.json` holds: "ways", each with its dev scores by task, their mean "quality", the "part"
    of the rows that it has seen, costs ("seconds", "peak_bytes", "parameters" trained beside the heads,
    "bytes" a task) and, of those judged on test, "test" as `judged_on_test` has it; the "recommended" way's
    key, the best on dev of all rows among those that `fit` makes, which are all but merges; the keys of the
    "front", which no way matches at the same or a lower number of parameters; both in "words"; and what was
    "left_out", with the reason.

    Raises
    ------
    ConfigError: an unknown method, or one that was named and cannot be taken; before anything is run.
    Interrupted: Ctrl-C; the sentence says how to go on.
    """
    suite = source if isinstance(source, Suite) else load_suite(source, backbone=_named(backbone))
    suite = replace(suite, training=said_over(suite.training, training or {}))
    if jobs > 1 and isinstance(backbone, Backbone):
        raise ConfigError("several processes each load the backbone: give its folder or its name")
    loaded = backbone if isinstance(backbone, Backbone) else Backbone.load(suite.backbone)
    listed, no_ways = chosen(methods, family)
    ways, left_out = _taken(listed, suite, loaded, named=methods is not None)
    asked = {
        "backbone": loaded.fingerprint,
        "methods": [way.to_json() for way in ways],
        "training": suite.training,
        "data": {name: _digest(data) for name, data in suite.tasks.items()},
        "seeds": seeds,
        "search": search,
    }
    proposals = Search(search, loaded, list(suite.tasks), suite.seed)
    ledger = Ledger(Path(out), asked, resume=resume)
    if (ledger.folder / FOUND).exists():
        found = json.loads((ledger.folder / FOUND).read_text(encoding="utf-8"))
        _tidy(ledger.folder, found)
        return found
    own = FeatureCache(ledger.folder / "features") if cache is None else cache
    crew: Crew = Here(Bench(suite, loaded, own))
    if jobs > 1:
        crew = Beside(suite, suite.backbone, own.folder, jobs)
    with crew:
        race = Race(suite, crew, ledger, 60 * budget, seeds, progress)
        race.run(ways, proposals)
    found = _found(race, suite, loaded, own, no_ways | left_out)
    best = found["recommended"]
    text = recommended(source, suite, race.ways[best], race.standings[best][0])
    write_text(ledger.folder / RECOMMENDED, text)
    write_json(ledger.folder / FOUND, found)
    _tidy(ledger.folder, found)
    return found


def _tidy(folder: Path, found: Mapping[str, Any]) -> None:
    """Keep the recommended model alone; to do it again, after a kill in the middle, does no harm."""
    kept = folder / MODELS / found["model"]
    if kept.exists():
        kept.rename(folder / "model")
    for name in (MODELS, "features"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _digest(data: TaskData) -> str:
    """What identifies the rows of a task."""
    rows = {split: [each.inputs, each.targets] for split, each in data.splits.items()}
    return hashlib.blake2b(json.dumps(rows, default=str).encode(), digest_size=8).hexdigest()


def _named(backbone: str | Backbone | None) -> str | None:
    return backbone if isinstance(backbone, str) else None


def _taken(
    ways: Sequence[Way], suite: Suite, backbone: Backbone, *, named: bool
) -> tuple[list[Way], dict[str, str]]:
    """The ways that can be taken, and of the others why not; those that were named have to be."""
    left_out: dict[str, str] = {}
    for way in ways:
        why = unfit(way, suite, backbone)
        if why is not None and named:
            raise ConfigError(why)
        if why is not None:
            left_out[way.method] = why
    found, same = distinct([way for way in ways if way.method not in left_out], suite)
    if any(way.merges for way in found):
        found.insert(1, apart(suite.tasks))
    return found, left_out | same


def _found(
    race: Race, suite: Suite, backbone: Backbone, cache: FeatureCache, left_out: Mapping[str, str]
) -> dict[str, Any]:
    """All that is known at the end, the test scores of the finalists among it."""
    finalists = race.finalists()
    best = next(key for key in finalists if not race.ways[key].merges)
    models = {key: race.models_of(key) for key in finalists}
    began = time.monotonic()
    tested = judged_on_test(models, suite, race.scales, best, cache)
    ways = [_told(race, key) | {"test": tested.get(key)} for key in race.ranking()]
    seen = [way for way in ways if way["part"] == 1.0]
    return {
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "backbone": backbone.name,
        "hardware": machine(),
        "seconds": race.seconds,
        "test_seconds": time.monotonic() - began,
        "tasks": {
            name: {
                "kind": data.task.kind,
                "metric": data.task.metric,
                "rows": {split: len(each) for split, each in data.splits.items()},
            }
            for name, data in suite.tasks.items()
        },
        "ways": ways,
        "recommended": best,
        "model": models[best][0].name,
        "front": front(seen),
        "words": in_words(seen, best, finalists[: finalists.index(best)]),
        "left_out": dict(left_out) | race.problems(),
    }


def _told(race: Race, key: str) -> dict[str, Any]:
    """What is known of a way: the means over its seeds on the largest part of the rows that it has seen."""
    way, results = race.ways[key], race.standings[key]

    def mean(name: str) -> float:
        return sum(getattr(each, name) for each in results) / len(results)

    first = results[0]
    return {
        "key": key,
        "name": way.name,
        **way.to_json(),
        "part": first.part,
        "seeds": [each.seed for each in results],
        "dev": {task: sum(each.dev[task] for each in results) / len(results) for task in first.dev},
        "quality": sum(map(race.quality, results)) / len(results),
        "kept": first.kept,
        "seconds": mean("seconds"),
        "peak_bytes": max(each.peak_bytes for each in results),
        "parameters": round(mean("parameters")),
        "bytes": round(mean("bytes")),
        "steps": first.steps,
    }
