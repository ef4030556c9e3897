"""Scores as a table: each with its interval, beside what doing nothing would have scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from taskheads.report.tables import Column, FittedTable

_LAYER = re.compile(r"layers\.(\d+)\.output")


class Scored(Protocol):
    """What is printed of a `taskheads.model.Score`."""

    @property
    def task(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def rows(self) -> int: ...
    @property
    def baseline(self) -> float | None: ...
    @property
    def others(self) -> Mapping[str, float]: ...


def scores_table(scores: Sequence[Scored], reads: Mapping[str, str] | None = None) -> FittedTable:
    """A line for each task; `reads` says by task which layers its head reads."""
    reads = reads or {}
    return FittedTable(
        [
            Column("task", [score.task for score in scores]),
            Column("kind", [score.kind for score in scores], spare=1),
            Column("metric", [score.metric for score in scores]),
            Column("score", [f"{score.value:.3f}" for score in scores], right=True),
            Column("95 %", [f"{score.low:.3f} to {score.high:.3f}" for score in scores], spare=2),
            Column("baseline", [number(score.baseline) for score in scores], right=True),
            Column("rows", [f"{score.rows:,}" for score in scores], right=True, spare=3),
            Column("reads", [reads.get(score.task, "") for score in scores], spare=4),
            Column("also", [others(score.others) for score in scores], spare=5),
        ]
    )


def number(value: float | None) -> str:
    """A score, or nothing where there is none."""
    return "" if value is None else f"{value:.3f}"


def others(metrics: Mapping[str, float]) -> str:
    """Further metrics on one line."""
    return ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())


def short_reads(reads: Sequence[str]) -> str:
    """What a head reads, for a table: "layers 0-2 4, last; mean" of sites with their pooling."""
    by_pooling: dict[str, list[str]] = {}
    for read in reads:
        site, _, pooling = read.rpartition(":")
        by_pooling.setdefault(pooling, []).append(site)
    return " / ".join(f"{_sites(sites)}; {pooling}" for pooling, sites in by_pooling.items())


def _sites(sites: Sequence[str]) -> str:
    numbers = sorted(int(found[1]) for site in sites if (found := _LAYER.fullmatch(site)))
    layers = [f"layer{'s' * (len(numbers) > 1)} {_runs(numbers)}"] if numbers else []
    others = [site for site in sites if not _LAYER.fullmatch(site) and site != "output"]
    return ", ".join([*others, *layers, *(["last"] if "output" in sites else [])])


def _runs(numbers: Sequence[int]) -> str:
    """0 1 2 3 5 6 → "0-3 5 6"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else " ".join(map(str, run)) for run in runs)
