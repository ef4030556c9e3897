"""The outcome in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from taskheads.report.page.numbers import count_of, duration, known, signed
from taskheads.report.page.outcomes import Outcome

_KEPT = {
    "shared": "the backbone tuned for all",
    "private": "a private copy of its top layers",
    "frozen": "the frozen backbone",
}


def summary(report: Mapping[str, Any], tasks: Sequence[Outcome]) -> list[str]:
    """What somebody wants to know who reads nothing else."""
    return [
        *_first(report, tasks),
        *_kept(tasks),
        *_against_frozen(tasks),
        *_against_alone(tasks),
    ]


def _first(report: Mapping[str, Any], tasks: Sequence[Outcome]) -> Iterator[str]:
    spent = [stage.get("seconds") for stage in report.get("stages") or ()]
    seconds = sum(each for each in spent if known(each))
    on = f" on {report['backbone']}" if report.get("backbone") else ""
    took = f", made in {duration(seconds)}" if seconds else ""
    yield f"One model for {count_of(len(tasks), 'task')}{on}{took}."


def _kept(tasks: Sequence[Outcome]) -> Iterator[str]:
    counts = Counter(task.kept for task in tasks if task.kept)
    ways = _KEPT | {kept: f"the frozen backbone with {kept}" for kept in counts if kept not in _KEPT}
    parts = [f"{count_of(counts[kept], 'task')} on {words}" for kept, words in ways.items() if counts[kept]]
    if parts:
        yield f"Chosen by dev scores: {_listed(parts)}."


def _against_frozen(tasks: Sequence[Outcome]) -> Iterator[str]:
    judged = [task for task in tasks if task.gain is not None]
    if not judged:
        return
    verdicts = Counter(task.verdict for task in judged)
    yield (
        f"Against frozen heads, test scores are better beyond the 95 % interval on "
        f"{count_of(verdicts['better'], 'task')}, worse on {count_of(verdicts['worse'], 'task')}, "
        f"and not told apart on {count_of(len(judged) - verdicts['better'] - verdicts['worse'], 'task')}."
    )
    gains = {task.name: task.gain.value for task in judged if task.gain and task.axis == "score"}
    if not gains:
        return
    best, worst = max(gains, key=lambda name: gains[name]), min(gains, key=lambda name: gains[name])
    said = [f"the largest gain is {signed(gains[best])} on {best}"] if gains[best] > 0 else []
    said += [f"the largest loss {signed(gains[worst])} on {worst}"] if gains[worst] < 0 else []
    if said:
        sentence = ", ".join(said)
        yield f"{sentence[0].upper()}{sentence[1:]}."


def _against_alone(tasks: Sequence[Outcome]) -> Iterator[str]:
    """The kept score beside that of a model tuned for the task alone."""
    beside = [(task, task.final, task.scores["alone"]) for task in tasks if "alone" in task.scores]
    pairs = [(task, mine, other) for task, mine, other in beside if mine is not None]
    if not pairs:
        return
    sign = {task.name: 1 if task.higher_is_better else -1 for task in tasks}
    ahead = sum(sign[task.name] * (mine.value - other.value) >= 0 for task, mine, other in pairs)
    below = [
        task.name
        for task, mine, other in pairs
        if (other.value > mine.ends[1] if task.higher_is_better else other.value < mine.ends[0])
    ]
    outside = f"; it is worse beyond its interval on {_listed(below)}" if below else ""
    yield (
        f"Beside a model tuned for each task alone, the score is as good or better on {ahead} of "
        f"{count_of(len(pairs), 'task')}{outside}."
    )


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
