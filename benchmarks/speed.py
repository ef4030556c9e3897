"""What many tasks on one backbone cost, beside one task and beside what people use today.

imports    `import taskheads` and `taskheads --help` in fresh processes, beside the libraries it stands on.
answering  a model's answers for ten tasks, beside one task's, and beside ten Hugging Face pipelines with
           the same encoder, each with a classification head of the task's size.
fitting    ten heads fitted on clinc150 (`ten_tasks.py`), in terms of one embedding pass over the same
           texts; for the heads alone, beside scikit-learn with a single penalty and no search.

Sides take turns in one process; the least of several rounds counts, for wall and processor seconds apart.

    python benchmarks/speed.py --out speed.json
    python benchmarks/speed.py --parts imports --rounds 10
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from report import (
    Seconds,
    data_folder,
    facts,
    keep,
    model_folder,
    parser,
    show,
    show_facts,
    timed,
    use_threads,
)
from ten_tasks import SMALLEST, ten_tasks, texts_of, unseen_texts

PARTS = ("imports", "answering", "fitting")
FRESH = 10  # processes of each import
PEERS = ("transformers", "torch", "sentence_transformers")
BATCH_SIZES = (1, 32, 64)
ANSWERED = 2000  # texts
Figures = dict[str, Any]


def in_turn(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Seconds]:
    """The least seconds of each side over rounds in which every side has its turn."""
    taken: dict[str, list[Seconds]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, work in sides.items():
            taken[name].append(timed(work)[1])
    return {name: Seconds.best(several) for name, several in taken.items()}


def ratio(above: Seconds, below: Seconds) -> Figures:
    return {"wall": above.wall / below.wall, "cpu": above.cpu / below.cpu}


def lines(seconds: Mapping[str, Seconds], places: int = 2) -> list[list[str]]:
    return [[name, f"{each.wall:.{places}f}", f"{each.cpu:.{places}f}"] for name, each in seconds.items()]


def bar(name: str, value: float, sign: str, bound: float, other: float | None = None) -> Figures:
    """A bar of the project and whether it is met, by the clock on the wall."""
    met = value <= bound if sign == "<=" else value >= bound
    beside = "" if other is None else f" (processor time {other:.3f})"
    print(f"{name}: {value:.3f}{beside}, to be {sign} {bound}: {'met' if met else 'MISSED'}")
    return {"name": name, "value": value, "cpu": other, "sign": sign, "bound": bound, "met": met}


def imports(processes: int = FRESH, peers: Sequence[str] = PEERS) -> Figures:
    """Whole processes: start of Python, the import, and the end."""
    beside = Path(sys.executable).with_name("taskheads")
    shown = [str(beside)] if beside.exists() else [sys.executable, "-m", "taskheads"]
    commands = {
        "python, nothing imported": [sys.executable, "-c", "pass"],
        "import taskheads": [sys.executable, "-c", "import taskheads"],
        "taskheads --help": [*shown, "--help"],
        **{f"import {peer}": [sys.executable, "-c", f"import {peer}"] for peer in peers},
    }
    taken: dict[str, list[Seconds]] = {name: [] for name in commands}
    for _ in range(processes):
        for name, command in commands.items():
            taken[name].append(_process(command))
    best = {name: Seconds.best(several) for name, several in taken.items()}
    show(f"A fresh process, best of {processes}", ("process", "wall s", "processor s"), lines(best, 3))
    bars = [
        bar(name, best[name].wall, "<=", 0.3, best[name].cpu)
        for name in ("import taskheads", "taskheads --help")
    ]
    return {"seconds": {name: asdict(each) for name, each in best.items()}, "bars": bars}


def _process(command: Sequence[str]) -> Seconds:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, taken = timed(lambda: subprocess.run(command, check=True, capture_output=True))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Seconds(taken.wall, used)


def answering(model: Any, texts: Sequence[str], rounds: int) -> Figures:
    """One pass for ten tasks, for one task, and a pipeline for each task."""
    pipelines = [_pipeline(head) for head in model.heads.values()]
    some = texts[: max(1, len(texts) // 4)]
    tried = in_turn({str(size): lambda size=size: pipelines[0](some, size) for size in BATCH_SIZES}, rounds)
    size = int(min(tried, key=lambda size: tried[size].wall))
    ten, one = "taskheads, ten tasks", f"taskheads, one task ({SMALLEST})"
    theirs = f"ten pipelines, batches of {size}"
    mine = {ten: lambda: model.predict(texts), one: lambda: model.predict(texts, tasks=[SMALLEST])}
    # The two differ by so little that they need more turns than the pipelines, which take far longer.
    few = in_turn(mine, 3 * rounds)
    both = in_turn({theirs: lambda: [each(texts, size) for each in pipelines], ten: mine[ten]}, rounds)
    best = few | {theirs: both[theirs]}
    show(f"Answers for {len(texts)} texts", ("side", "wall s", "processor s"), lines(best))
    many, gain = ratio(few[ten], few[one]), ratio(both[theirs], both[ten])
    bars = [
        bar("ten tasks in terms of one", many["wall"], "<=", 1.05, many["cpu"]),
        bar("times faster than ten pipelines", gain["wall"], ">=", 8.0, gain["cpu"]),
    ]
    return {
        "texts": len(texts),
        "batch_sizes": {size: asdict(each) for size, each in tried.items()},
        "seconds": {name: asdict(each) for name, each in best.items()},
        "bars": bars,
    }


def _pipeline(head: Any) -> Callable[..., Any]:
    """A Hugging Face pipeline with the encoder's weights and a head with as many outputs."""
    from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

    model = BertForSequenceClassification.from_pretrained(model_folder(), num_labels=head.outputs)
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    applied = {"regress": "none", "ordinal": "none", "multilabel": "sigmoid"}.get(head.kind, "softmax")
    made = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    return lambda texts, batch_size: made(list(texts), batch_size=batch_size, function_to_apply=applied)


def fitting(suite: Any, backbone: Any, rounds: int) -> tuple[Figures, Any]:
    """`fit` in terms of one embedding pass; its time for features and for heads apart. Also the model."""
    import taskheads as th
    from taskheads.backbone.features import extract
    from taskheads.backbone.reads import Read

    texts, mean = texts_of(suite), Read("output", "mean")
    taken: dict[str, list[Seconds]] = {"pass": [], "features": [], "heads": [], "fit": []}
    for _ in range(rounds):
        embedded, seconds = timed(lambda: extract(backbone, "text", texts, [mean]))
        taken["pass"].append(seconds)
        solving: list[Seconds] = []

        def stamp(stage: str, done: int, total: int, solving: list[Seconds] = solving) -> None:
            if stage == "solving" and not solving:
                solving.append(Seconds.now())

        start = Seconds.now()
        model = th.fit(suite, tune="frozen", backbone=backbone, progress=stamp)
        end = Seconds.now()
        taken["features"].append(solving[0] - start)
        taken["heads"].append(end - solving[0])
        taken["fit"].append(end - start)
    peer = timed(lambda: _scikit_learn(suite, embedded[mean].numpy()))[1]
    best = {name: Seconds.best(several) for name, several in taken.items()}
    named = {
        "one embedding pass, mean of the last layer": best["pass"],
        "fit, features: all reads that heads may choose": best["features"],
        "fit, ten heads: reads, penalties, thresholds chosen": best["heads"],
        "fit, all of it": best["fit"],
        "scikit-learn's ten heads, a single penalty": peer,
    }
    rows = {split: len(examples) for split, examples in suite.tasks[SMALLEST].splits.items()}
    title = f"Fitting {len(suite.tasks)} heads, {rows['train']} train and {rows['dev']} dev texts"
    show(title, ("work", "wall s", "processor s"), lines(named))
    for name, head in model.heads.items():
        card = model.card["tasks"][name]
        print(f"  {name}: {head.kind}, {card['seconds']:.2f} s, {card['solver']}, dev {card['dev']:.3f}")
    cost = ratio(best["fit"], best["pass"])
    bars = [bar("fitting ten heads in embedding passes", cost["wall"], "<=", 1.2, cost["cpu"])]
    per_task = {name: card["seconds"] for name, card in model.card["tasks"].items()}
    seconds = {name: asdict(each) for name, each in named.items()}
    return {"rows": rows, "seconds": seconds, "seconds_of_task": per_task, "bars": bars}, model


def _scikit_learn(suite: Any, features: Any) -> None:
    """The same ten heads with scikit-learn at its defaults, no choice of anything: the least a peer does."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    from taskheads.tasks.labels import encode

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The number of unique classes")
        for data in suite.tasks.values():
            train = data.splits["train"]
            x, y = features[: len(train)], encode(data.task, train)
            if data.task.kind == "multilabel":
                for label in y.T:
                    if 0 < label.sum() < len(label):
                        LogisticRegression().fit(x, label)
            else:
                (Ridge() if data.task.kind == "regress" else LogisticRegression()).fit(x, y)


def main(arguments: Sequence[str] | None = None) -> Figures:
    options = parser(__doc__)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    options.add_argument("--rounds", type=int, default=3, help="least of so many counts; default: 3")
    options.add_argument("--fresh", type=int, default=FRESH, help="processes of each import; default: 10")
    chosen = options.parse_args(arguments)
    record: Figures = {"benchmark": "speed", "facts": facts(chosen.threads), "limit": chosen.limit}
    show_facts(record["facts"])
    if "imports" in chosen.parts:
        record["imports"] = imports(chosen.fresh)
        keep(chosen.out, record)
    if set(chosen.parts) == {"imports"}:
        return record
    use_threads(chosen.threads)
    from transformers.utils import logging

    from taskheads.backbone.backbone import Backbone

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = data_folder() / "clinc150"
    with tempfile.TemporaryDirectory() as folder:
        suite = ten_tasks(source, Path(folder), chosen.limit)
    rounds = chosen.rounds if "fitting" in chosen.parts else 1
    figures, model = fitting(suite, Backbone.load("minilm"), rounds)
    if "fitting" in chosen.parts:
        record["fitting"] = figures
        keep(chosen.out, record)
    if "answering" in chosen.parts:
        texts = unseen_texts(source, min(chosen.limit or ANSWERED, ANSWERED))
        record["answering"] = answering(model, texts, chosen.rounds)
        keep(chosen.out, record)
    return record


if __name__ == "__main__":
    main()
