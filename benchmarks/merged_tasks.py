"""Five tasks fine-tuned from one encoder (MiniLM), each alone, and merged by every method for any number of
models: what each merge keeps.

Each task is tuned by `th.fit(tune="full")`. Then the trunks are merged by each method, at the defaults of
its options unless said beside its name; every task's own head answers on the merged trunk. Shown are test
scores, and the mean over tasks of the score divided by that of the task's own model. Rows "keep …" serve each
task from one shared copy and a stored difference, whose bytes on disk stand beside.

    python benchmarks/merged_tasks.py --limit 300 --steps 20
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import report
from quality import TASKS as DECLARED

TASKS = ("clinc150", "trec_coarse", "sst5_classify", "movie_review", "subjectivity")
STATIC: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("task_arithmetic", {"scale": 0.3}),
    ("task_arithmetic", {"scale": 0.5}),
    ("ties", {}),
    ("dare", {"scale": 0.3}),
    ("dare_ties", {}),
    ("breadcrumbs", {"scale": 0.5}),
    ("model_stock", {}),
    ("tall_masks_consensus", {"scale": 0.5}),
    ("fisher", {}),
    ("regmean", {}),
]
LEARNED = ("adamerging", "atlas_anisotropic_task_vectors", "self_positioning", "concrete_subspace_merging")
KEPT = ("masks", "low_rank", "quantised")


def main() -> None:
    options = report.parser(__doc__ or "")
    options.add_argument("--steps", type=int, default=40, help="of the methods that learn")
    options.add_argument("--epochs", type=float, default=3.0, help="of tuning each task, at most")
    options.set_defaults(limit=400)
    args = options.parse_args()
    report.use_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="merged.") as folder:
        record = run(Path(folder), args.limit, args.steps, args.epochs)
    record["facts"] = report.facts(args.threads)
    report.show_facts(record["facts"])
    report.keep(args.out, record)


def run(work: Path, limit: int, steps: int, epochs: float) -> dict[str, Any]:
    from taskheads.merging.plan import Entry, Plan
    from taskheads.merging.with_heads import originals

    suite = thinned_suite(limit)
    tuned(suite, work, epochs)
    models = tuple(Entry(path=work / name) for name in TASKS)
    plan = Plan(method="linear", base=Path("minilm"), models=models)
    scores = {task: each.value for task, each in originals(plan, suite).items()}
    rows = [["each alone", *(f"{scores[task]:.3f}" for task in TASKS), "100.0 %", ""]]
    record: dict[str, Any] = {"originals": scores, "merges": []}
    asked = [(method, options, None) for method, options in STATIC]
    asked += [(method, {"steps": steps}, None) for method in LEARNED]
    asked += [("task_arithmetic", {"scale": 0.3}, keep) for keep in KEPT]
    for method, options, keep in asked:
        told = plan.model_copy(update={"method": method, "options": options, "keep": keep})
        found, size, seconds = merged(told, suite, work)
        kept = sum(found[task] / scores[task] for task in TASKS) / len(TASKS)
        said = ", ".join(f"{key} {value:g}" for key, value in options.items())
        name = f"keep {keep}" if keep else f"{method} ({said})" if said else method
        rows.append([name, *(f"{found[task]:.3f}" for task in TASKS), f"{100 * kept:.1f} %"])
        rows[-1].append(f"{size / 1e6:.0f}" if keep else "")
        record["merges"].append(
            {"name": name, "scores": found, "kept": kept, "bytes": size, "cpu": seconds.cpu}
        )
        print(f"{name}: {100 * kept:.1f} % kept, {seconds.cpu:.0f} s of processors", flush=True)
    report.show("Five tasks from one trunk", ["method", *TASKS, "kept", "MB"], rows)
    return record


def thinned_suite(limit: int) -> Any:
    """The five tasks with so many train rows at most, and as many dev and test rows."""
    import taskheads as th

    tasks = {
        name: DECLARED[name] | {"data": str(report.data_folder() / DECLARED[name]["data"])} for name in TASKS
    }
    suite = th.load_suite({"tasks": tasks})
    for name, data in suite.tasks.items():
        splits = {split: examples.thinned(limit) for split, examples in data.splits.items()}
        suite.tasks[name] = replace(data, splits=splits)
    return suite


def tuned(suite: Any, work: Path, epochs: float) -> None:
    """Tune and save a model of each task."""
    import taskheads as th

    for name in TASKS:
        alone = replace(suite, tasks={name: suite.tasks[name]})
        model, took = report.timed(
            lambda alone=alone: th.fit(alone, tune="full", training={"epochs": epochs}, cache=None)
        )
        model.save(work / name)
        print(f"{name}: tuned in {took.cpu:.0f} s of processors", flush=True)


def merged(plan: Any, suite: Any, work: Path) -> tuple[dict[str, float], int, report.Seconds]:
    """The test scores of a merge, its model's bytes on disk, and the time of the merge itself."""
    from taskheads.merging.trunks import laid_out, model_of
    from taskheads.merging.with_heads import data_of, merged_by_data

    with tempfile.TemporaryDirectory(dir=work) as folder:
        sources = laid_out(plan, Path(folder))
        tasks = data_of(sources, suite)
        trunk, took = report.timed(lambda: merged_by_data(sources, tasks, Path(folder)))
        model = model_of(sources, trunk)
        found = {score.task: score.value for score in model.evaluate(suite)}
        to = Path(folder) / "saved"
        model.save(to)
        size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file())
    return found, size, took


if __name__ == "__main__":
    main()
