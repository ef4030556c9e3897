"""What a report says of each task, with None for what it does not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from taskheads.report.page.numbers import known
from taskheads.tasks.metrics import METRICS

# Who may have answered, in the order of the table; then come edits, by the names of their methods.
_ANSWERERS = {
    "majority": "majority",
    "frozen": "frozen alone",
    "alone": "tuned alone",
    "shared": "shared",
    "private": "private top",
}


def answerers(tasks: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Who has a score in any task (its own mapping of scores), with a title for each, in order."""
    found = dict.fromkeys(key for scores in tasks for key in scores)
    known_first = [key for key in _ANSWERERS if key in found]
    return {
        key: _ANSWERERS.get(key, key) for key in [*known_first, *(k for k in found if k not in _ANSWERERS)]
    }


Verdict = Literal["better", "worse", "unsure", "same"]


@dataclass(frozen=True)
class Measured:
    """A value, and its interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def read(cls, found: Mapping[str, Any] | None) -> Measured | None:
        if not found or not known(found.get("value")):
            return None
        low, high = found.get("low"), found.get("high")
        return cls(found["value"], low, high) if known(low) and known(high) else cls(found["value"])

    @property
    def ends(self) -> tuple[float, float]:
        """The interval; the value itself where there is none."""
        return (
            self.value if self.low is None else self.low,
            self.value if self.high is None else self.high,
        )


@dataclass(frozen=True)
class Outcome:
    """One task.

    Parameters
    ----------
    scores: on test, by who has one, see `answerers`. kept: whose answers the model gives.
    gain: by how much the kept answers are better than those of the frozen head.
    """

    name: str
    anchor: str
    kind: str
    metric: str
    rows: Mapping[str, int]
    labels: int
    scores: Mapping[str, Measured]
    dev: Mapping[str, float]
    kept: str | None
    gain: Measured | None
    others: Mapping[str, float]
    findings: Mapping[str, Any]

    @property
    def final(self) -> Measured | None:
        """The score of the model's answers."""
        return self.scores.get(self.kept or "")

    @property
    def higher_is_better(self) -> bool:
        metric = METRICS.get(self.metric)
        return metric is None or metric.higher_is_better

    @property
    def axis(self) -> str:
        """What its scores are drawn against: "score" where they are at most 1 and higher is better, else the
        metric itself, since minutes of error stand on no axis with shares."""
        ends = [end for found in self.scores.values() for end in (*found.ends, found.value)]
        unit = not ends or (min(ends) >= -1 and max(ends) <= 1)
        return "score" if self.higher_is_better and unit else self.metric

    @property
    def verdict(self) -> Verdict | None:
        """Whether the gain is one, beyond its interval."""
        if self.gain is None:
            return None
        low, high = self.gain.ends
        if low > 0:
            return "better"
        if high < 0:
            return "worse"
        return "unsure" if self.gain.value else "same"


def outcomes(tasks: Mapping[str, Mapping[str, Any]] | None) -> list[Outcome]:
    """The tasks of a report, in its order."""
    return [_outcome(name, f"task-{i}", of or {}) for i, (name, of) in enumerate((tasks or {}).items(), 1)]


def _outcome(name: str, anchor: str, of: Mapping[str, Any]) -> Outcome:
    scores = of.get("scores") or {}
    measured = {answerer: Measured.read(scores.get(answerer)) for answerer in answerers([scores])}
    return Outcome(
        name=name,
        anchor=anchor,
        kind=of.get("kind") or "",
        metric=of.get("metric") or "",
        rows={split: int(count) for split, count in (of.get("rows") or {}).items() if known(count)},
        labels=len(of.get("labels") or ()),
        scores={answerer: found for answerer, found in measured.items() if found is not None},
        dev={answerer: value for answerer, value in (of.get("dev") or {}).items() if known(value)},
        kept=of.get("kept"),
        gain=Measured.read(of.get("gain")),
        others={metric: value for metric, value in (of.get("others") or {}).items() if known(value)},
        findings=of.get("findings") or {},
    )
