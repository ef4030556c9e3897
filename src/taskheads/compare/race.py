"""Rungs under one clock: which runs there are, in which order, and for how long each."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from taskheads.compare.bench import Result, Run, quality, rows_at, scales_of
from taskheads.compare.crew import Crew
from taskheads.compare.expecting import Expected, expected
from taskheads.compare.halving import left, parts_of, ranked
from taskheads.compare.ledger import Ledger
from taskheads.compare.searching import Search
from taskheads.compare.ways import Way, apart, way_of
from taskheads.model.features import Progress
from taskheads.tasks.suite import Suite

# Of a run's time, what tuning may take as long as nothing says how long the rest of a run takes.
_TUNING = 0.75
_LEAST_MINUTES = 0.02
# Of all time, what the rungs before the last one have: for each candidate, and in all at most. By what factor
# rows grow from one rung to the next at least.
_EXPLORING, _EXPLORING_MOST = 0.05, 1 / 4
_GROWTH = 2
# Full fine-tuning, and how many times the share of another way it may take on the last rung.
_FULL, _FULL_SHARE = way_of("full"), 9.0
FROZEN = "frozen"
MODELS = "models"


class Race:
    """The candidates of a comparison, rung by rung.

    Parameters
    ----------
    suite: with all rows. crew: who runs. ledger: what is there already is not run again, and its time counts.
    seconds: of the clock, for all rungs: at least three quarters of it for the last one, from which all comes
        that is told on test, and equal shares of the rest for those before.
    seeds: of each candidate but the frozen heads, which have no use for one.

    Attributes
    ----------
    ways: by key. standings: of each, its results on the largest part of the rows that it has seen.
    """

    def __init__(
        self, suite: Suite, crew: Crew, ledger: Ledger, seconds: float, seeds: int, progress: Progress | None
    ) -> None:
        self.suite, self.crew, self.ledger, self.progress = suite, crew, ledger, progress
        self.seeds = [suite.seed + at for at in range(seeds)]
        self.ways: dict[str, Way] = {}
        self.standings: dict[str, list[Result]] = {}
        self._scales: dict[float, dict[str, float]] = {}
        self._apart = apart(suite.tasks)
        self._began = time.monotonic() - ledger.spent
        self._end = self._began + seconds

    def run(self, ways: Sequence[Way], search: Search) -> None:
        """Run the ways, the frozen heads first, and what `search` proposes beside them."""
        frozen, rest = ways[0], list(ways[1:])
        self.ways |= {way.key: way for way in ways}
        count = len(rest) + search.count
        exploring = min(_EXPLORING_MOST, _EXPLORING * count * len(self.seeds)) * (self._end - self._began)
        explored = self._began + exploring
        parts = self._parts(count)
        for rung, part in enumerate(parts):
            now, following = time.monotonic(), len(parts) - 1 - rung
            last = not following
            deadline = self._end if last else now + max(0.0, explored - now) / following
            going = self._finalists(rest) if rung and last else rest[: left(len(rest), rung)]
            if rung and not last and not self._telling(going, part, deadline):
                continue
            self._go([Run(frozen, self.seeds[0], part)], [1.0], deadline, keep=last)
            merging = self._apart in going or any(way.merges for way in going)
            alone = [self._apart] if merging else []
            going = [way for way in going if way not in alone]
            behind = [way for way in rest if way not in [*alone, *going]]
            proposed = search.count if rung == 0 else 0
            if alone:  # before what is made of it
                self._go(self._runs(alone, part), self._shares([*alone, *going]), deadline, keep=True)
            further = (way for way in behind if last and self._affordable(way))
            runs = chain(
                self._runs(going, part), self._proposed(search, proposed, part), self._runs(further, part)
            )
            shares = self._shares(going, _FULL_SHARE if rung and last else 1.0)
            self._go(runs, shares + [1.0] * proposed * len(self.seeds), deadline, keep=last)
            rest = [self.ways[key] for key in self.ranking() if key != frozen.key]

    def ranking(self) -> list[str]:
        """The keys of all ways with scores: those that have seen more rows first, then the better on dev."""
        parts = {key: results[0].part for key, results in self.standings.items() if _whole(results)}
        best = ranked({key: [self.quality(each) for each in self.standings[key]] for key in parts})
        return sorted(best, key=lambda key: -parts[key])

    def finalists(self) -> list[str]:
        """The keys of the ways that have seen all rows, the best on dev first."""
        return [key for key in self.ranking() if self.standings[key][0].part == 1.0]

    def quality(self, result: Result) -> float:
        """The mean of a result's dev scores, as `scales_of` makes them one."""
        return quality(result.dev, self._scales[result.part])

    def problems(self) -> dict[str, str]:
        """Of the ways that have no score, why."""
        found = {}
        unmade = [each.problem for each in self.standings.get(self._apart.key, []) if each.problem]
        for key, way in self.ways.items():
            results = self.standings.get(key, [])
            if not results and way.merges and unmade:
                found[way.name] = f"there are no models to merge: {unmade[0]}"
            elif not results:
                found[way.name] = "the time was over before its first run"
            elif not _whole(results):
                found[way.name] = next(filter(None, (each.problem for each in results)))
        return found

    @property
    def seconds(self) -> float:
        """What all runs took by the clock, those before a resumption too."""
        return max(self.ledger.spent, time.monotonic() - self._began)

    @property
    def scales(self) -> dict[str, float]:
        """`scales_of` the frozen heads on all rows."""
        return self._scales[1.0]

    def models_of(self, key: str) -> list[Path]:
        """Where the models of a finalist are, seed by seed."""
        return [self._model(Run(self.ways[key], each.seed, 1.0)) for each in self.standings[key]]

    def _parts(self, count: int) -> list[float]:
        """The parts of the rows on which so many candidates run, none twice on next to the same rows."""
        rows = {part: rows_at(self.suite, part) for part in parts_of(count)}
        found: list[float] = []
        for part in rows:
            if not found or part == 1.0 or rows[part] >= _GROWTH * rows[found[-1]]:
                found.append(part)
        return [part for part in found if part == 1.0 or rows[part] < rows[1.0]]

    def _finalists(self, ranked: Sequence[Way]) -> list[Way]:
        """Full fine-tuning, which others are measured by, if it is a candidate that did not fail; and the
        first of the others."""
        ways = self.ways.values()
        full = [way for way in ways if way == _FULL and _whole(self.standings.get(way.key, []))]
        return [*full, *[way for way in ranked if way != _FULL][:1]]

    def _shares(self, ways: Sequence[Way], of_full: float = 1.0) -> list[float]:
        """In what proportion the ways have the time, seed by seed; merges train nothing, and have one share
        in all."""
        shares = [of_full if way == _FULL else 1.0 for way in ways if not way.merges]
        merging = [1.0] if len(shares) < len(ways) else []
        return [share for share in [*shares, *merging] for _ in self.seeds]

    def _runs(self, ways: Iterable[Way], part: float) -> Iterator[Run]:
        """The ways seed by seed; of merges those whose models are there."""
        for way in ways:
            for seed in self.seeds:
                run = Run(way, seed, part)
                if way.merges:
                    models = Run(self._apart, seed, part)
                    result = self.ledger.results.get(models.name)
                    if result is None or result.problem:
                        continue
                    run = replace(run, models=self._model(models), spent=result.seconds)
                yield run

    def _proposed(self, search: Search, count: int, part: float) -> Iterator[Run]:
        """What the search proposes, each once what has ended by then was told to it."""
        for _ in range(count):
            ended = {key: self.quality(self.standings[key][0]) for key in self.ranking()}
            alike = (each.groups for results in self.standings.values() for each in results)
            way = search.ask(
                [(self.ways[key], value) for key, value in ended.items()], next(filter(None, alike), None)
            )
            if way is not None and way.key not in self.ways:
                yield from self._runs([way], part)

    def _go(self, runs: Iterable[Run], shares: Sequence[float], deadline: float, *, keep: bool) -> None:
        """Have the runs run, each with its share of the time; those beyond `shares` have what is left.

        None but the frozen heads is begun that would not be over by the deadline. As long as none has ended
        with a score on these rows, the next may take half of all that is left, where that is more.
        """
        waiting, runs, begun = 0, iter(runs), 0
        while True:
            run = next(runs, None) if waiting < self.crew.slots else None
            if run is None and not waiting:
                return
            if run is None:
                waiting -= 1
                self._note(*self.crew.take())
                continue
            self.ways[run.way.key] = run.way
            begun += 1
            if run.name in self.ledger.results:
                self._note(run, self.ledger.results[run.name])
                continue
            now, frozen = time.monotonic(), run.way.method == FROZEN
            until = deadline if self._scored(run.part) else max(deadline, now + (self._end - now) / 2)
            least = self._expected(run)
            if not frozen and now + (0.0 if least is None else least.seconds) >= until:
                continue
            ahead = shares[begun - 1 :]
            share = (deadline - now) * min(1.0, self.crew.slots * ahead[0] / sum(ahead) if ahead else 1.0)
            tuning = _TUNING * share if least is None else share - least.beside
            run = replace(
                run,
                minutes=max(_LEAST_MINUTES, tuning / 60),
                seconds=math.inf if frozen else until - now,
                keep=self._model(run) if keep else None,
            )
            self.crew.put(self.ledger.begun(run))
            waiting += 1

    def _scored(self, part: float) -> bool:
        """Whether anything but the frozen heads has a score on this part of the rows."""
        ended = (results[0] for key, results in self.standings.items() if self.ways[key].method != FROZEN)
        return any(each.part == part and not each.problem for each in ended)

    def _expected(self, run: Run) -> Expected | None:
        """What a run takes at the least, by what its way took before, or else others of its kind."""
        before = self.standings.get(run.way.key) or [
            each
            for key, results in self.standings.items()
            for each in results
            if self.ways[key].method != FROZEN and self.ways[key].merges == run.way.merges
        ]
        return expected(before, run.part, lambda part: rows_at(self.suite, part))

    def _note(self, run: Run, result: Result) -> None:
        if run.name not in self.ledger.results:
            self.ledger.note(run, result, time.monotonic() - self._began)
        if run.way.method == FROZEN and run.part not in self._scales:
            self._scales[run.part] = scales_of(self.suite, result.dev)
        before = self.standings.get(run.way.key, [])
        if before and before[0].part != run.part:
            before = []
        self.standings[run.way.key] = [*before, result]
        if self.progress is not None:
            ended = sum(each.part == run.part for each in self.ledger.results.values())
            self.progress(f"on {run.part:.0%} of the rows", ended, 0)

    def _model(self, run: Run) -> Path:
        return self.ledger.folder / MODELS / run.name

    def _telling(self, ways: Sequence[Way], part: float, deadline: float) -> bool:
        """Whether there is time for each of the ways to train twice as long as it can at the least on this
        part of the rows; or they did, before a resumption."""
        runs = list(self._runs(ways, part))
        if any(run.name in self.ledger.results for run in runs):
            return True
        least = [each for run in runs if (each := self._expected(run)) is not None]
        needed = sum(2 * each.steps + each.beside for each in least)
        return time.monotonic() + needed / self.crew.slots <= deadline

    def _affordable(self, way: Way) -> bool:
        """Whether there is time to train a way that was left behind no less far than it was on fewer rows."""
        if way.merges:
            return True  # it trains nothing
        before = self.standings[way.key]
        took = sum(each.seconds for each in before) / before[0].part
        return time.monotonic() + took / min(self.crew.slots, len(before)) < self._end


def _whole(results: Sequence[Result]) -> bool:
    return not any(each.problem for each in results)
