"""Five tasks fine-tuned from one encoder (MiniLM), each alone, and merged by every method for any number of
models: what each merge keeps.

Each task is tuned by `th.fit(tune="full")`. Then the trunks are merged by each method, at the defaults of
its options unless said beside its name; every task's own head answers on the merged trunk. Shown are test
scores, and the mean over tasks of the score divided by that of the task's own model. Rows "keep …" serve each
task from one shared copy and a stored difference, whose bytes on disk stand beside. twin_merging answers row
by row (`merged_routed.py`).

Methods of the family that are not here merge other things than these five: two models (slerp), layers of
different experts (layer_swapping, passthrough), models of different size (dynamic_logit_fusion), or a task
with data to defend it by (defense_aware_merging, somf_safety_fusion).

Each finished piece (a tuned model, a merge) is kept in the folder `--parts`, by default named like `--out`
without its ending; what is there and was made with the same options is not made again.

    python benchmarks/merged_tasks.py --out merged.json
    python benchmarks/merged_tasks.py --limit 60 --steps 3 --epochs 1
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import report
from joint import Parts
from merged_routed import RANK, Routed
from quality import TASKS as DECLARED

TASKS = ("clinc150", "trec_coarse", "sst5_classify", "movie_review", "subjectivity")
STATIC: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("task_arithmetic", {"scale": 0.3}),
    ("task_arithmetic", {"scale": 0.5}),
    ("ties", {}),
    ("ties", {"per_tensor": 1}),
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
Figures = dict[str, Any]


def main(given: Sequence[str] | None = None) -> Figures:
    options = report.parser(__doc__ or "")
    options.add_argument("--steps", type=int, default=40, help="of the methods that learn; default: 40")
    options.add_argument("--rows", type=int, default=8, help="of each task, a step; default: 8")
    options.add_argument("--epochs", type=float, default=3.0, help="of tuning each task, at most")
    options.add_argument("--parts", type=Path, help="folder of finished pieces; default: as --out says")
    options.set_defaults(limit=400)
    args = options.parse_args(given)
    report.use_threads(args.threads)
    record: Figures = {"benchmark": "merged_tasks", "facts": report.facts(args.threads), "limit": args.limit}
    report.show_facts(record["facts"])
    said = {"limit": args.limit, "epochs": args.epochs, "threads": args.threads}
    folder = args.parts or (args.out.with_suffix("") if args.out else None)
    with tempfile.TemporaryDirectory(prefix="merged.") as work:
        models = (folder or Path(work)) / "models"
        suite, parts = thinned_suite(args.limit), Parts(folder)
        alone = {
            task: parts.get(task, said, lambda task=task: tuned(task, suite, models / task, args.epochs))
            for task in TASKS
        }
        record["originals"] = {task: each["score"] for task, each in alone.items()}
        record["merges"] = []
        merges, routed = Merges(suite, models, Path(work)), f"twin_merging (rank {RANK})"
        for method, settings, keep in asked(args.steps, args.rows):
            name = titled(method, settings, keep)
            told = said | {"method": method, "options": settings, "keep": keep}
            made = parts.get(
                name, told, lambda told=(method, settings, keep): merges.scored(*told, record["originals"])
            )
            noted(record, name, made, args.out)
        made = parts.get(routed, said, lambda: merges.routed(record["originals"]))
        noted(record, routed, made, args.out)
    shown(record)
    return record


def noted(record: Figures, name: str, made: Figures, out: Path | None) -> None:
    """Print what a merge came to, and keep it."""
    record["merges"].append({"name": name} | made)
    print(f"{name}: {100 * made['kept']:.1f} % kept, {made['cpu']:.0f} s of processors", flush=True)
    report.keep(out, record)


def asked(steps: int, rows: int) -> list[tuple[str, dict[str, Any], str | None]]:
    """Every merge: its method, options, and how each task's own weights are kept."""
    merges: list[tuple[str, dict[str, Any], str | None]] = [(*each, None) for each in STATIC]
    merges += [(method, {"steps": steps, "rows": rows}, None) for method in LEARNED]
    return merges + [("task_arithmetic", {"scale": 0.3}, keep) for keep in KEPT]


def titled(method: str, settings: Figures, keep: str | None) -> str:
    said = ", ".join(f"{key} {value:g}" for key, value in settings.items())
    return f"keep {keep}" if keep else f"{method} ({said})" if said else method


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


def tuned(task: str, suite: Any, to: Path, epochs: float) -> Figures:
    """Tune a model of one task and save it to a folder; its test score."""
    import taskheads as th

    alone = replace(suite, tasks={task: suite.tasks[task]})
    model, took = report.timed(lambda: th.fit(alone, tune="full", training={"epochs": epochs}, cache=None))
    shutil.rmtree(to, ignore_errors=True)
    to.parent.mkdir(parents=True, exist_ok=True)
    model.save(to)
    print(f"{task}: tuned in {took.cpu:.0f} s of processors", flush=True)
    return {"score": model.evaluate(alone)[0].value, "cpu": took.cpu}


class Merges:
    """The models in `folder`, laid out once in `work` to be merged in any way."""

    def __init__(self, suite: Any, folder: Path, work: Path) -> None:
        from taskheads.merging.plan import Entry, Plan
        from taskheads.merging.trunks import laid_out
        from taskheads.merging.with_heads import data_of

        entries = tuple(Entry(path=folder / task) for task in TASKS)
        self.suite, self.work = suite, work
        self.sources = laid_out(Plan(method="linear", base=Path("minilm"), models=entries), work)
        self.tasks = data_of(self.sources, suite)

    def scored(self, method: str, settings: Figures, keep: str | None, originals: Figures) -> Figures:
        """The test scores of a merge, what it keeps, its model's bytes on disk, and the time of the merge."""
        from taskheads.merging.trunks import model_of
        from taskheads.merging.with_heads import merged_by_data

        told = {"method": method, "options": settings, "keep": keep}
        sources = replace(self.sources, plan=self.sources.plan.model_copy(update=told))
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            trunk, took = report.timed(lambda: merged_by_data(sources, self.tasks, Path(folder)))
            model = model_of(sources, trunk)
            found = {score.task: score.value for score in model.evaluate(self.suite)}
            to = Path(folder) / "saved"
            model.save(to)
            size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file())
        return {"scores": found, "kept": share(found, originals), "bytes": size, "cpu": took.cpu}

    def routed(self, originals: Figures) -> Figures:
        """The same of Twin-Merging, whose weights are none that a folder could hold."""
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            routed, took = report.timed(lambda: Routed(self.sources, self.tasks, Path(folder)))
            found = routed.scores(self.suite)
        return {"scores": found, "kept": share(found, originals), "cpu": took.cpu}


def share(scores: Figures, originals: Figures) -> float:
    """What is kept of the originals' scores, in the mean of the tasks."""
    return sum(scores[task] / originals[task] for task in TASKS) / len(TASKS)


def shown(record: Figures) -> None:
    rows = [["each alone", *(f"{record['originals'][task]:.3f}" for task in TASKS), "100.0 %", ""]]
    for each in record["merges"]:
        scores = [f"{each['scores'][task]:.3f}" for task in TASKS]
        size = f"{each['bytes'] / 1e6:.0f}" if each["name"].startswith("keep") else ""
        rows.append([each["name"], *scores, f"{100 * each['kept']:.1f} %", size])
    report.show("Five tasks from one trunk", ["method", *TASKS, "kept", "MB"], rows)


if __name__ == "__main__":
    main()
