"""What was measured of methods, last: figures of `benchmarks/edit_methods.py`, kept in the package."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from taskheads.compare.ledger import write_json
from taskheads.errors import ConfigError
from taskheads.report.kept import size

FILE = Path(__file__).with_name("measured.json")
_FIGURES = ("score", "parameters", "processor_seconds", "peak_bytes", "bytes")


@dataclass(frozen=True)
class Measured:
    """Methods that were run in the same way on the same tasks.

    how: the command, the hardware and the versions. frozen: the test scores of heads on the frozen backbone,
    by task. methods: of each its test "score" by task; its "parameters" and "bytes" on disk, a task;
    "processor_seconds" of the whole fit; "peak_bytes", the most memory of the process.
    """

    how: str
    frozen: dict[str, float]
    methods: dict[str, dict[str, Any]]

    def told(self, name: str) -> str | None:
        """The figures of a method in a sentence; None where it was not measured."""
        if name not in self.methods:
            return None
        each = self.methods[name]
        scores = ", ".join(
            f"{task} {100 * value:.1f} (frozen {100 * self.frozen[task]:.1f})"
            for task, value in each["score"].items()
        )
        return (
            f"{scores}; {each['parameters']:,} parameters and {size(each['bytes'])} a task, "
            f"{each['processor_seconds']:,.0f} processor seconds, {size(each['peak_bytes'])} of memory"
        )

    def table(self, names: Iterable[str]) -> list[str]:
        """A Markdown table of the methods among these, the best sum of scores first; empty where there are
        none. A method has no score of a task that it does not apply to."""
        mine = {name: self.methods[name] for name in names if name in self.methods}
        if not mine:
            return []
        best = sorted(mine.items(), key=lambda item: -sum(item[1]["score"].values()))
        columns = [*self.frozen, "parameters a task", "on disk a task", "processor seconds", "memory"]
        lines = [f"Measured by {self.how}:", ""]
        lines += [_row(["test score", *columns]), _row(["---", *(["---:"] * len(columns))])]
        lines.append(_row(["frozen", *map(_percent, self.frozen.values()), "0", "", "", ""]))
        for name, each in best:
            scores = [_percent(each["score"][task]) if task in each["score"] else "" for task in self.frozen]
            costs = [f"{each['parameters']:,}", size(each["bytes"])]
            costs += [f"{each['processor_seconds']:,.0f}", size(each["peak_bytes"])]
            lines.append(_row([f"[{name}](#{name})", *scores, *costs]))
        return lines


def of_benchmark(*paths: Path) -> Measured:
    """The figures in what `benchmarks/edit_methods.py --out` wrote, whether or not it has come to its end; of
    several such files, whose methods are others, all of them.

    Raises ConfigError for a file of something else, and for files whose runs were not alike.
    """
    found = [_of_one(path) for path in paths]
    for path, each in zip(paths, found, strict=True):
        if (each.how, each.frozen) != (found[0].how, found[0].frozen):
            raise ConfigError(f"{path} was measured otherwise than {paths[0]}: {each.how}; {found[0].how}")
    return Measured(
        found[0].how, found[0].frozen, {name: of for each in found for name, of in each.methods.items()}
    )


def _of_one(path: Path) -> Measured:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        facts, methods = record["facts"], record["methods"]
        rows = "" if record["limit"] is None else f", {record['limit']:,} rows a split"
        how = (
            f"`benchmarks/edit_methods.py` ({record['steps']} steps a stage{rows}) on {facts['cpu']}, "
            f"{facts['threads']} of {facts['cores']} cores, torch {facts['versions']['torch']}"
        )
        frozen = next(iter(methods.values()))["frozen"]
        figures = {name: {key: each[key] for key in _FIGURES} for name, each in methods.items()}
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise ConfigError(f"{path} is not what benchmarks/edit_methods.py --out writes: {error!r}") from None
    return Measured(how, frozen, figures)


def keep(measured: Measured, path: Path = FILE) -> None:
    """Keep the figures in the package, for `measured_last`."""
    write_json(path, asdict(measured))
    measured_last.cache_clear()


@cache
def measured_last() -> Measured | None:
    """The figures that the package has; None where there are none yet."""
    return Measured(**json.loads(FILE.read_text(encoding="utf-8"))) if FILE.exists() else None


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
