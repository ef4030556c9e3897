"""One joint model beside tasknet's, on the same tasks: test scores, and the seconds of both.

taskheads    `th.fit(tune="auto")` with all tasks, as in `joint.py`.
tasknet      one encoder shared by a Hugging Face model for each task, which its Trainer trains on batches of
             16 rows of one task; everything else as it is by default.

Both sides see the same rows for as many epochs at most, and choose between the same learning rates by
the mean of the tasks' dev scores. Of a word's tags, that of its first subword counts. nlupp_banking, where
rows have several labels, is left out: at a fixed threshold of a half tasknet would be shown worse than it is.

    pip install --no-deps tasknet easydict funcy frozendict magicattr lazy-load lazy-object-proxy evaluate
    python benchmarks/joint_peers.py --limit 400 --out joint_peers.json

The second peer of this kind, MaChAmp, is on no package index; its repository asks for transformers 4.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from alone import AT_ONCE, BATCH, first_subwords
from joint import RATES, TASKS, Figures, beside, plain, shown, suite_of, together
from report import facts, keep, model_folder, parser, show_facts, timed, use_threads
from speed import bar

LEFT_OUT = ("nlupp_banking",)
SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def installed() -> str:
    """tasknet's version; without it there is nothing to compare with."""
    try:
        return version("tasknet")
    except PackageNotFoundError:
        line = next(line.strip() for line in (__doc__ or "").splitlines() if "pip install" in line)
        raise SystemExit(f"the peer of this benchmark is not installed: {line}") from None


def library() -> Any:
    """tasknet, which asks the Hub for a metric while it is imported; none of its metrics is used here."""
    import evaluate

    evaluate.load = lambda *_, **__: None
    import tasknet

    return tasknet


class Peer:
    """tasknet's tasks of a suite, its model, and what that decides."""

    def __init__(self, suite: Any) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.suite = suite
        self.tokenizer = AutoTokenizer.from_pretrained(model_folder())
        config = AutoConfig.from_pretrained(model_folder())
        self.limit = min(self.tokenizer.model_max_length, config.max_position_embeddings)

    def fit(self, rate: float, epochs: float, seed: int = 0) -> Figures:
        """Train at this learning rate: the mean of the tasks' dev scores, and the decisions about test."""
        from transformers import set_seed
        from transformers.utils import logging

        from probes import judge, truths

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        set_seed(seed)
        names = list(self.suite.tasks)
        with tempfile.TemporaryDirectory() as folder:
            said = {
                "model_name": model_folder(),
                "max_length": self.limit,
                "learning_rate": rate,
                "num_train_epochs": epochs,
                "per_device_train_batch_size": BATCH,
                "output_dir": folder,
                "seed": seed,
                "use_cpu": True,
                "report_to": [],
                "disable_tqdm": True,
                **dict.fromkeys(("save_strategy", "eval_strategy", "logging_strategy"), "no"),
            }
            tasks = [self._task(name) for name in names]
            self.model, trainer = library().Model_Trainer(tasks, said)
            trainer.train()
        utility = []
        for at, name in enumerate(names):
            data = self.suite.tasks[name]
            metric, truth = judge(data.task), truths(data.task, data.splits["dev"])
            utility.append(metric.utility(metric.compute(truth, self._decided(at, name, "dev"))))
        answers = {name: plain(self._decided(at, name, "test")) for at, name in enumerate(names)}
        return {"rate": rate, "dev": float(np.nan_to_num(np.mean(utility), nan=-1.0)), "answers": answers}

    def _task(self, name: str) -> Any:
        from datasets import ClassLabel, Dataset, DatasetDict, Sequence, Value

        from taskheads.tasks.labels import encode

        task = self.suite.tasks[name].task
        labels = ClassLabel(names=[str(label) for label in task.labels]) if task.labels else Value("float32")
        columns = ("tokens",) if task.kind == "tag" else ("sentence1", "sentence2")[: len(task.inputs)]
        made = {}
        for split, theirs in SPLITS.items():
            rows = self.suite.tasks[name].splits[split]
            whole = Dataset.from_dict(
                dict(zip(columns, map(list, rows.inputs), strict=True))
                | {"labels": [np.asarray(each).tolist() for each in encode(task, rows)]}
            )
            kind = Sequence(labels) if task.kind == "tag" else labels
            made[theirs] = whole.cast_column("labels", kind)
        kind = library().TokenClassification if task.kind == "tag" else library().Classification
        return kind(dataset=DatasetDict(made), name=name)

    def _decided(self, at: int, name: str, split: str) -> Any:
        """Decisions as the task's metric takes them. A word without a token gets train's commonest tag."""
        import torch

        from taskheads.model.evaluation import commonest

        data = self.suite.tasks[name]
        rows, words = data.splits[split].inputs, data.task.kind == "tag"
        model, found = self.model.task_models_list[at].eval(), []
        usual = commonest(data.task, data.splits["train"].targets) if words else None
        for start in range(0, len(rows[0]), AT_ONCE):
            some = [list(column[start : start + AT_ONCE]) for column in rows]
            batch = self.tokenizer(
                *some,
                truncation=True,
                max_length=self.limit,
                padding=True,
                is_split_into_words=words,
                return_tensors="pt",
            )
            with torch.inference_mode():
                logits = model(**batch).logits.numpy()
            if not words:
                found += list(logits.argmax(1) if data.task.labels else logits[:, 0].astype(float))
                continue
            for row, (scores, tokens) in enumerate(zip(logits, some[0], strict=True)):
                first = first_subwords(batch.word_ids(row), len(tokens))
                found.append([data.task.labels[scores[at].argmax()] if at >= 0 else usual for at in first])
        return found if words else np.asarray(found)


def main(given: Sequence[str] | None = None) -> Figures:
    known = [name for name in TASKS if name not in LEFT_OUT]
    options = parser(__doc__ or "")
    options.add_argument("--tasks", nargs="+", choices=known, default=known, metavar="TASK")
    options.add_argument("--epochs", type=float, default=3.0, help="of both sides; default: 3")
    chosen = options.parse_args(given)
    use_threads(chosen.threads)
    record: Figures = {"benchmark": "joint_peers", "facts": facts(chosen.threads), "limit": chosen.limit}
    record["facts"]["versions"]["tasknet"] = installed()
    show_facts(record["facts"])
    suite, epochs = suite_of(chosen.tasks, chosen.limit), chosen.epochs
    mine = together(suite, RATES, epochs)
    peer, made = timed(lambda: Peer(suite))
    tried, taken = timed(lambda: [peer.fit(rate, epochs) for rate in RATES])
    theirs = max(tried, key=lambda each: each["dev"])
    seconds = {"joint": mine["seconds"], "tasknet": (made + taken).wall}
    tasks = {name: beside(data, mine, theirs["answers"][name]) for name, data in suite.tasks.items()}
    rates = [f"{each['rate']:g}" for each in (mine, theirs)]
    title = f"One model for {len(tasks)} tasks (lr {rates[0]}) and tasknet's (lr {rates[1]}), test, in points"
    mean = shown(title, "tasknet", tasks)
    print(f"joint {seconds['joint']:.0f} s; tasknet {seconds['tasknet']:.0f} s; all rates of both")
    record |= {"epochs": epochs, "tasks": tasks, "seconds": seconds}
    record["bars"] = [
        bar("mean difference", mean, ">=", 0.0),
        bar("joint time in terms of tasknet's", seconds["joint"] / seconds["tasknet"], "<=", 1.0),
    ]
    keep(chosen.out, record)
    return record


if __name__ == "__main__":
    main()
