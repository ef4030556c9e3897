"""What joint fine-tuning costs and gains, beside the Trainer of Hugging Face with the same encoder.

step       tokens trained on a second and the most memory held: one classification task on texts of mixed
           length, the same head and optimiser on both sides; and whether both sides' losses agree.
joint      nine tasks: one model tuned for all of them (`th.fit`), beside a model fine-tuned for each alone.

Of a step, sides take turns in one process and the fastest of several rounds counts; memory is that of a
process of each side's own. Of the joint model, both sides see the same rows and choose among as many
learning rates on dev.

    python benchmarks/training.py --out training.json
    python benchmarks/training.py --parts joint --limit 1000 --epochs 3
"""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding import mixed_texts
from quality import TASKS as DECLARED
from report import data_folder, facts, keep, model_folder, parser, show, show_facts, timed, use_threads
from speed import bar

if TYPE_CHECKING:
    import torch

PARTS = ("step", "joint")
Figures = dict[str, Any]

# --- step
TEXTS = 5000
TOKENS = 2048
WARM = 3
CLASSES = 5
RATE = 5e-5
COMPARED = 5  # steps whose losses are compared
APART = 1e-4
TASK = "length"
MINE = "taskheads"
PADDED, GROUPED, DEFAULT = "Trainer, as many tokens", "Trainer, grouped by length", "Trainer, batches of 8"
SIDES = (MINE, PADDED, GROUPED, DEFAULT)

# --- joint
TASKS: dict[str, dict[str, Any]] = {
    "clinc150": DECLARED["clinc150"],
    "trec_fine": DECLARED["trec_fine"],
    "sst5": DECLARED["sst5_classify"],
    "stsbenchmark": DECLARED["stsbenchmark"],
    "wnut17": DECLARED["wnut17"],
    "atis_slots": DECLARED["atis_slots"],
    "atis_intent": DECLARED["atis_intent"],
    "nlupp_banking": DECLARED["nlupp_banking"],
    "tweet_offensive": {"data": "tweet_offensive", "input": "text", "label": "label", "kind": "classify"},
}
RATES = (5e-5, 2e-4)
HEAD_RATE = 1e-3  # the product's own; the Trainer's heads would hardly move at the encoder's rate
WARMUP = 0.1
BATCH = 16
AT_ONCE = 64  # rows a batch where nothing is learned
IGNORED = -100
SCORED_BY = {"classify": "label", "pair": "value", "tag": "tags", "multilabel": "labels"}


def encoder(
    outputs: int, score: Callable[..., Any], loss: Callable[..., Any], *, dropout: bool = True
) -> Any:
    """The encoder with a linear head, as a module that Trainer trains; `tokens` counts the real ones.

    `score` makes logits of (token vectors, mask, head); `loss` compares them with labels.
    """
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(model_folder(), dtype=torch.float32)
            self.head = torch.nn.Linear(self.model.config.hidden_size, outputs)
            self.tokens = 0

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            token_type_ids: torch.Tensor | None = None,
            labels: torch.Tensor | None = None,
        ) -> dict[str, torch.Tensor]:
            self.tokens += int(attention_mask.sum())
            states = self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state
            logits = score(states, attention_mask, self.head)
            return {"logits": logits} if labels is None else {"loss": loss(logits, labels), "logits": logits}

    made = Encoder()
    if not dropout:
        without_dropout(made)
    return made


def without_dropout(model: Any) -> None:
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def mean_pooled(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def of_text(states: torch.Tensor, mask: torch.Tensor, head: Any) -> torch.Tensor:
    """Logits of the mean of a row's token vectors."""
    return head(mean_pooled(states, mask))


def of_tokens(states: torch.Tensor, mask: torch.Tensor, head: Any) -> torch.Tensor:
    """Logits of every token."""
    return head(states)


def of_pair(states: torch.Tensor, mask: torch.Tensor, head: Any) -> torch.Tensor:
    """The cosine of two texts, all first ones standing before all second ones."""
    import torch

    first, second = mean_pooled(states, mask).chunk(2)
    return torch.nn.functional.cosine_similarity(first, second)


def arguments(folder: str, **more: Any) -> Any:
    """Trainer without anything but training."""
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        eval_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        weight_decay=0.01,
        **more,
    )


# ---------------------------------------------------------------------------------------------- step


@dataclass(frozen=True)
class Texts:
    """Texts and made-up labels: in which fifth of all lengths a text is."""

    texts: list[str]
    labels: list[int]

    @classmethod
    def read(cls, count: int) -> Texts:
        texts = mixed_texts(data_folder(), count)
        sizes = np.asarray([len(text) for text in texts])
        bounds = np.quantile(sizes, np.arange(1, CLASSES) / CLASSES)
        return cls(texts, np.searchsorted(bounds, sizes).tolist())


Round = Callable[[int], tuple[int, float]]  # from a number of steps to the tokens and seconds they took


def recipe(steps: int, clip: float = 1.0) -> Any:
    from taskheads.training.joint.recipe import Recipe

    return Recipe(
        steps=steps,
        tokens=TOKENS,
        lr=RATE,
        head_lr=RATE,
        layer_decay=1.0,
        schedule="constant",
        warmup=0.0,
        clip=clip,
        evaluations=1,
        dev_rows=8,
    )


class Mine:
    """The product's side: its backbone and one head."""

    def __init__(self, data: Texts) -> None:
        from taskheads.backbone.backbone import Backbone
        from taskheads.backbone.reads import Read
        from taskheads.heads import head_for
        from taskheads.tasks.task import Examples, Task
        from taskheads.training.joint.rows import TaskRows

        labels = tuple(map(str, range(CLASSES)))
        task = Task(TASK, "classify", ("text",), "label", "accuracy", labels)
        rows = Examples((data.texts,), [str(label) for label in data.labels], [("", 0)] * len(data.texts))
        self.backbone = Backbone.load("minilm")
        kind = head_for(task)
        self.head: Any = kind(task, [Read("output", "mean")], self.backbone.width)
        self.rows = TaskRows.of(self.backbone, kind, task, rows)
        self.dev = rows.thinned(8)

    def run(self, steps: int, watch: Callable[[Any], None] | None = None, clip: float = 1.0) -> Any:
        from taskheads.training.joint.loop import Run

        return Run(
            self.backbone,
            {TASK: self.head},
            {TASK: self.rows},
            {TASK: self.dev},
            {TASK: 0.0},
            recipe(steps, clip),
            watch=watch,
        )

    def round(self, steps: int) -> tuple[int, float]:
        """Dev is looked at after the last step, which does not count; nor do the first ones."""
        marks: dict[int, tuple[int, float]] = {}

        def note(course: Any) -> None:
            marks[course.step] = course.tokens, time.perf_counter()

        self.run(WARM + steps + 1, note).train()
        return between(marks, steps)


def between(marks: Mapping[int, tuple[int, float]], steps: int) -> tuple[int, float]:
    """Tokens and seconds from the end of the last step of the warm-up on."""
    (before, start), (after, end) = marks[WARM], marks[WARM + steps]
    return after - before, end - start


class Theirs:
    """Trainer's side, texts tokenised beforehand as the product's are."""

    def __init__(self, data: Texts, *, dropout: bool = True) -> None:
        from torch.nn.functional import cross_entropy
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model_folder())
        self.model = encoder(CLASSES, of_text, cross_entropy, dropout=dropout)
        ids = self.tokenizer(data.texts, truncation=True, max_length=limit_of(self.model, self.tokenizer))
        self.rows = [
            {key: ids[key][row] for key in ids} | {"labels": label} for row, label in enumerate(data.labels)
        ]
        self.tokens = sum(len(row["input_ids"]) for row in self.rows)

    @property
    def as_many(self) -> int:
        """The batch size at which a step has as many real tokens as the product's."""
        return max(1, round(TOKENS * len(self.rows) / self.tokens))

    def round(self, steps: int, batch: int, sampling: str = "random") -> tuple[int, float]:
        """Dynamic padding: every batch to its longest row."""
        from transformers import DataCollatorWithPadding, Trainer, TrainerCallback

        marks: dict[int, tuple[int, float]] = {}
        model = self.model
        model.tokens = 0

        class Note(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                marks[state.global_step] = model.tokens, time.perf_counter()

        with tempfile.TemporaryDirectory() as folder:
            said = arguments(
                folder,
                max_steps=WARM + steps + 1,
                per_device_train_batch_size=batch,
                train_sampling_strategy=sampling,
                learning_rate=RATE,
                lr_scheduler_type="constant",
            )
            Trainer(
                model=model,
                args=said,
                train_dataset=self.rows,
                data_collator=DataCollatorWithPadding(self.tokenizer),
                processing_class=self.tokenizer,
                callbacks=[Note()],
            ).train()
        return between(marks, steps)


def limit_of(model: Any, tokenizer: Any) -> int:
    """Where the product cuts a row: what tokenizer and position embeddings allow."""
    return min(tokenizer.model_max_length, model.model.config.max_position_embeddings)


def rounds_of(names: Iterable[str], data: Texts) -> dict[str, Round]:
    """What runs a round of each of these sides; those of Trainer share a model."""
    made: dict[str, Round] = {}
    theirs: Theirs | None = None
    for name in names:
        if name == MINE:
            made[name] = Mine(data).round
            continue
        theirs = theirs or Theirs(data)
        many = theirs.as_many
        # Small steps are more, so that all rounds see about as many tokens.
        made[name] = {
            PADDED: lambda steps, side=theirs, many=many: side.round(steps, many),
            GROUPED: lambda steps, side=theirs, many=many: side.round(steps, many, "group_by_length"),
            DEFAULT: lambda steps, side=theirs, many=many: side.round(max(1, steps * many // 8), 8),
        }[name]
    return made


def peak() -> int:
    """The most bytes that this process has held since its program was started.

    Linux counts what the parent held into `ru_maxrss` of a child, but not into `VmHWM`.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measured(name: str, count: int, steps: int) -> Figures:
    """One round of one side in this process: the most memory before and after."""
    side = rounds_of([name], Texts.read(count))[name]
    loaded = peak()
    tokens, seconds = side(steps)
    return {"loaded_bytes": loaded, "peak_bytes": peak(), "tokens_per_second": tokens / seconds}


def memory(names: Sequence[str], count: int, steps: int, threads: int) -> dict[str, Figures]:
    """`measured` for each side in a process of its own."""
    found = {}
    for name in names:
        options = ["--measure", name, "--limit", count, "--steps", steps, "--threads", threads]
        command = [sys.executable, __file__, *map(str, options)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"  memory, {name}: {found[name]['peak_bytes'] / 2**20:.0f} MiB", flush=True)
    return found


def agreement(data: Texts) -> Figures:
    """The losses of both sides' first steps: no dropout, the same rows, the same first head.

    The product divides a loss by what an answer without input would lose; so does the other side here, and
    neither clips gradients.
    """
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithPadding, Trainer

    mine, theirs = Mine(data), Theirs(data, dropout=False)
    without_dropout(mine.backbone.model)
    linear = theirs.model.head
    mine.head.put(linear.weight.T, linear.bias)
    run = mine.run(COMPARED, clip=1e9)
    ahead = copy.deepcopy(run.stream)
    batches = [ahead.draw()[TASK].tolist() for _ in range(COMPARED)]
    product = [value for _, value in run.train().losses[TASK]]
    peer: list[float] = []

    class InOrder(Trainer):
        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)

        def compute_loss(self, *given: Any, **more: Any) -> Any:
            loss = super().compute_loss(*given, **more)
            peer.append(loss.item())
            return loss / run.units[TASK]

    with tempfile.TemporaryDirectory() as folder:
        said = arguments(
            folder,
            max_steps=COMPARED,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
        )
        collator = DataCollatorWithPadding(theirs.tokenizer)
        InOrder(model=theirs.model, args=said, train_dataset=theirs.rows, data_collator=collator).train()
    apart = max(abs(a - b) for a, b in zip(product, peer, strict=True))
    return {"taskheads": product, "Trainer": peer, "largest_difference": apart}


def step(count: int, steps: int, rounds: int, threads: int, told: Callable[[Figures], None]) -> Figures:
    """`told` is given what is known so far."""
    found: Figures = {"texts": count, "memory": memory(SIDES, count, steps, threads)}
    told(found)
    use_threads(threads)
    data = Texts.read(count)
    found["agreement"] = agreement(data)
    told(found)
    apart = found["agreement"]["largest_difference"]
    agree = bar(f"largest difference of the losses of {COMPARED} steps", apart, "<=", APART)

    sides = rounds_of(SIDES, data)
    taken: dict[str, list[tuple[int, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            taken[name].append(side(steps))
            tokens, seconds = taken[name][-1]
            print(f"  round {number + 1}, {name}: {tokens / seconds:.0f} tokens/s", flush=True)
            found["rounds"] = taken
            told(found)
    rate = {name: max(tokens / seconds for tokens, seconds in each) for name, each in taken.items()}
    rows = []
    for name in sides:
        tokens = np.mean([each[0] for each in taken[name]])
        used = found["memory"][name]
        sizes = (used["peak_bytes"] / 2**20, (used["peak_bytes"] - used["loaded_bytes"]) / 2**20)
        line = [name, f"{tokens:.0f}", f"{rate[name]:.0f}", f"{rate[MINE] / rate[name]:.2f}"]
        rows.append([*line, *(f"{each:.0f}" for each in sizes)])
    show(
        f"Training on {count} texts of mixed length, real tokens, best of {rounds}",
        ("side", "tokens a round", "tokens/s", "taskheads is x", "peak MiB", "of it training"),
        rows,
    )
    used = {name: each["peak_bytes"] for name, each in found["memory"].items()}
    found["tokens_per_second"] = rate
    found["bars"] = [
        agree,
        bar("times Trainer's tokens a second, dynamic padding", rate[MINE] / rate[PADDED], ">=", 1.5),
        bar("peak memory in terms of Trainer's", used[MINE] / used[PADDED], "<=", 1.0),
    ]
    told(found)
    return found


# --------------------------------------------------------------------------------------------- joint


def suite_of(names: Sequence[str], limit: int | None) -> Any:
    """The tasks as one suite; each split cut to `limit` evenly spaced rows."""
    import taskheads as th

    tasks = {}
    for name in names:
        folder = data_folder() / TASKS[name]["data"]
        files = {split: folder / f"{split}.jsonl" for split in ("train", "dev", "test")}
        present = {split: str(path) for split, path in files.items() if path.exists()}
        tasks[name] = TASKS[name] | {"data": present}
    suite = th.load_suite({"tasks": tasks})
    if limit is not None:
        for name, data in suite.tasks.items():
            splits = {split: examples.thinned(limit) for split, examples in data.splits.items()}
            suite.tasks[name] = replace(data, splits=splits)
    return suite


@dataclass
class Together:
    """One joint model: its dev scores' mean, and what it tells of each task's test rows."""

    rate: float
    dev: float
    seconds: float
    kept: dict[str, str]
    answers: dict[str, Any]

    @classmethod
    def fit(cls, suite: Any, rate: float, epochs: float) -> Together:
        """As a user calls it; as many minutes as the epochs take."""
        import taskheads as th
        from probes import judge

        said = {"lr": rate, "epochs": epochs, "minutes": 1e6}
        model, seconds = timed(lambda: th.fit(suite, tune="auto", backbone="minilm", training=said))
        cards = model.card["tasks"]
        dev = [judge(data.task).utility(cards[name]["dev"]) for name, data in suite.tasks.items()]
        kept = {name: cards[name]["kept"].split()[0] for name in suite.tasks}
        answers = {name: told(model, data) for name, data in suite.tasks.items()}
        return cls(rate, float(np.mean(dev)), seconds.wall, kept, answers)


def told(model: Any, data: Any) -> Any:
    """What the model tells its user of the test rows, as the task's metric takes it."""
    from probes import truths

    task, test = data.task, data.splits["test"]
    rows = [dict(zip(task.inputs, values, strict=True)) for values in zip(*test.inputs, strict=True)]
    answers = [answer[task.name] for answer in model.predict(rows, tasks=[task.name])]
    return truths(task, replace(test, targets=[answer[SCORED_BY[task.kind]] for answer in answers]))


class Alone:
    """One task fine-tuned by Trainer: its rows as Trainer takes them, its model, its decisions.

    Texts: linear head on the mean of the last layer; multi-label with one threshold chosen on dev. Pairs: the
    cosine of both texts, fitted to the similarity brought to 0 to 1. Tags: linear head on a word's first
    subword. The weights of the epoch that is best on dev are kept.
    """

    def __init__(self, data: Any) -> None:
        from transformers import AutoConfig, AutoTokenizer

        from probes import judge

        self.data, self.task, self.metric = data, data.task, judge(data.task)
        self.tokenizer = AutoTokenizer.from_pretrained(model_folder())
        config = AutoConfig.from_pretrained(model_folder())
        self.limit = min(self.tokenizer.model_max_length, config.max_position_embeddings)
        self.rows = {split: self._rows(split) for split in ("train", "dev", "test")}
        self.looked = 0.0

    def fit(self, rate: float, epochs: float, seed: int = 0) -> tuple[float, Any]:
        """The dev utility at this learning rate, and the decisions about test."""
        import torch
        from transformers import Trainer, TrainerCallback, set_seed

        set_seed(seed)
        model = self._model()
        best: list[Any] = [-np.inf, {}, None]

        class Look(TrainerCallback):
            def on_epoch_end(look, args: Any, state: Any, control: Any, **_: Any) -> None:
                start = time.perf_counter()
                value, threshold = self._on_dev(model)
                if value > best[0]:
                    weights = {key: each.clone() for key, each in model.state_dict().items()}
                    best[:] = value, weights, threshold
                self.looked += time.perf_counter() - start

        groups = [
            {"params": [each for each in part.parameters() if (each.ndim > 1) == matrix], "lr": at}
            | {"weight_decay": 0.01 if matrix else 0.0}
            for part, at in ((model.model, rate), (model.head, HEAD_RATE))
            for matrix in (True, False)
        ]
        with tempfile.TemporaryDirectory() as folder:
            said = arguments(
                folder,
                num_train_epochs=epochs,
                per_device_train_batch_size=BATCH,
                warmup_steps=WARMUP,
                lr_scheduler_type="cosine",
                seed=seed,
            )
            Trainer(
                model=model,
                args=said,
                train_dataset=self.rows["train"],
                data_collator=self.collate,
                callbacks=[Look()],
                optimizers=(torch.optim.AdamW(groups, fused=True), None),
            ).train()
        model.load_state_dict(best[1])
        return best[0], self._decided(self._logits(model, "test"), "test", best[2])

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Padded to the longest row of the batch; of pairs, all first texts and then all second ones."""
        import torch

        sides = [[row["sides"][side] for row in rows] for side in range(len(rows[0]["sides"]))]
        batch = dict(self.tokenizer.pad([each for side in sides for each in side], return_tensors="pt"))
        labels = [torch.as_tensor(row["target"]) for row in rows]
        if self.task.kind == "tag":
            batch["labels"] = torch.full(batch["input_ids"].shape, IGNORED)
            for into, row, tags in zip(batch["labels"], rows, labels, strict=True):
                seen = row["first"] >= 0
                into[row["first"][seen]] = tags[seen]
        else:
            batch["labels"] = torch.stack(labels)
        return batch

    def _rows(self, split: str) -> list[dict[str, Any]]:
        from taskheads.tasks.labels import encode

        examples = self.data.splits[split]
        targets = encode(self.task, examples)
        if self.task.kind == "pair":
            ends = np.asarray(self.data.splits["train"].targets, float)
            targets = ((targets - ends.min()) / (ends.max() - ends.min())).astype(np.float32)
        elif self.task.kind == "multilabel":
            targets = targets.astype(np.float32)
        words = self.task.kind == "tag"
        columns = [
            [row if words or isinstance(row, str) else " ".join(row) for row in column]
            for column in examples.inputs
        ]
        sides = [
            self.tokenizer(column, truncation=True, max_length=self.limit, is_split_into_words=words)
            for column in columns
        ]
        made: list[dict[str, Any]] = []
        for at, target in enumerate(targets):
            row = {"sides": [{key: side[key][at] for key in side} for side in sides], "target": target}
            if words:
                row["first"] = first_subwords(sides[0].word_ids(at), len(columns[0][at]))
            made.append(row)
        return made

    def _model(self) -> Any:
        from torch.nn import functional as f

        kind, outputs = self.task.kind, max(1, len(self.task.labels))
        if kind == "tag":
            return encoder(
                outputs,
                of_tokens,
                lambda logits, labels: f.cross_entropy(logits.flatten(0, 1), labels.flatten()),
            )
        if kind == "pair":
            return encoder(outputs, of_pair, f.mse_loss)
        if kind == "multilabel":
            return encoder(outputs, of_text, f.binary_cross_entropy_with_logits)
        return encoder(outputs, of_text, f.cross_entropy)

    def _logits(self, model: Any, split: str) -> list[np.ndarray]:
        """Of every row of a split; of tags, of every token. Rows of like length stand together."""
        import torch

        rows, learning = self.rows[split], model.training
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]["sides"][0]["input_ids"]))
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        model.eval()
        with torch.inference_mode():
            for start in range(0, len(order), AT_ONCE):
                some = order[start : start + AT_ONCE]
                batch = self.collate([rows[row] for row in some])
                del batch["labels"]
                for row, logits in zip(some, model(**batch)["logits"].numpy(), strict=True):
                    found[row] = logits
        model.train(learning)
        return found

    def _decided(self, logits: list[np.ndarray], split: str, threshold: float | None) -> Any:
        """Decisions as the task's metric takes them. A word without a token gets train's commonest tag."""
        kind = self.task.kind
        if kind == "tag":
            from taskheads.model.evaluation import commonest

            usual = commonest(self.task, self.data.splits["train"].targets)
            return [
                [self.task.labels[scores[at].argmax()] if at >= 0 else usual for at in row["first"]]
                for scores, row in zip(logits, self.rows[split], strict=True)
            ]
        scores = np.stack(logits)
        if kind == "pair":
            return scores
        if kind == "multilabel":
            return 1 / (1 + np.exp(-scores)) >= threshold
        return scores.argmax(1)

    def _on_dev(self, model: Any) -> tuple[float, float | None]:
        """The dev utility, of labels at the threshold that is best."""
        from probes import THRESHOLDS, truths

        truth, logits = truths(self.task, self.data.splits["dev"]), self._logits(model, "dev")
        tried = list(THRESHOLDS) if self.task.kind == "multilabel" else [None]
        utility = [
            self.metric.utility(self.metric.compute(truth, self._decided(logits, "dev", threshold)))
            for threshold in tried
        ]
        at = int(np.argmax(utility))
        return utility[at], tried[at]


def first_subwords(words: Sequence[int | None], count: int) -> np.ndarray:
    """The first token of each of `count` words, or -1."""
    first = np.full(count, -1, np.int64)
    for token in range(len(words) - 1, -1, -1):
        word = words[token]
        if word is not None:
            first[word] = token
    return first


def joint(
    names: Sequence[str],
    limit: int | None,
    epochs: float,
    threads: int,
    told_so_far: Callable[[Figures], None],
) -> Figures:
    """Both sides, the joint one first; `told_so_far` is given what is known."""
    use_threads(threads)
    suite = suite_of(names, limit)
    rows = {
        name: {split: len(each) for split, each in data.splits.items()} for name, data in suite.tasks.items()
    }
    found: Figures = {"rows": rows, "epochs": epochs, "rates": RATES, "together": [], "tasks": {}}
    tried = []
    for rate in RATES:
        tried.append(Together.fit(suite, rate, epochs))
        now = tried[-1]
        about = {"rate": rate, "dev": now.dev, "seconds": now.seconds, "kept": now.kept}
        found["together"].append(about)
        told_so_far(found)
        print(f"  joint, lr {rate:g}: mean dev {now.dev:.4f}, {now.seconds:.0f} s", flush=True)
    best = max(tried, key=lambda each: each.dev)
    for name, data in suite.tasks.items():
        found["tasks"][name] = beside(best, name, data, epochs)
        told_so_far(found)
    shown(found, best)
    found["seconds"] = {
        "joint": sum(each.seconds for each in tried),
        "alone": sum(each["seconds"] for each in found["tasks"].values()),
        "alone_dev": sum(each["dev_seconds"] for each in found["tasks"].values()),
    }
    found["bars"] = verdicts(found)
    told_so_far(found)
    return found


def beside(together: Together, name: str, data: Any, epochs: float) -> Figures:
    """The joint model on one task beside the best of Trainer's."""
    from probes import truths
    from taskheads.tasks.metrics import paired_difference

    start = time.perf_counter()
    alone = Alone(data)
    tried = {rate: alone.fit(rate, epochs) for rate in RATES}
    seconds = time.perf_counter() - start
    rate = max(tried, key=lambda each: tried[each][0])
    truth, metric = truths(data.task, data.splits["test"]), alone.metric
    mine, theirs = together.answers[name], tried[rate][1]
    apart = paired_difference(metric, truth, mine, theirs)
    made = {
        "metric": metric.name,
        "joint": metric.compute(truth, mine),
        "alone": metric.compute(truth, theirs),
        "difference": {"value": apart.value, "low": apart.low, "high": apart.high},
        "kept": together.kept[name],
        "alone_rate": rate,
        "alone_dev": {f"{each:g}": dev for each, (dev, _) in tried.items()},
        "seconds": seconds,
        "dev_seconds": alone.looked,
    }
    print(f"  {name}: {made['joint']:.4f}, alone {made['alone']:.4f}, {seconds:.0f} s", flush=True)
    return made


def shown(found: Figures, best: Together) -> None:
    rows = []
    for name, each in found["tasks"].items():
        apart = each["difference"]
        points = [f"{100 * apart[end]:+.1f}" for end in ("value", "low", "high")]
        rows.append(
            [
                name,
                each["metric"],
                f"{100 * each['joint']:.1f}",
                f"{100 * each['alone']:.1f}",
                f"{points[0]} [{points[1]}, {points[2]}]",
                each["kept"],
                f"{each['alone_rate']:g}",
            ]
        )
    mean = {side: np.mean([each[side] for each in found["tasks"].values()]) for side in ("joint", "alone")}
    both = [f"{100 * mean[side]:.1f}" for side in ("joint", "alone")]
    rows.append(["mean", "", *both, f"{100 * (mean['joint'] - mean['alone']):+.1f}", "", ""])
    show(
        f"One model for {len(rows) - 1} tasks (lr {best.rate:g}) and Trainer's for each, test, in points",
        ("task", "metric", "joint", "alone", "difference", "kept", "alone's lr"),
        rows,
    )


def verdicts(found: Figures) -> list[Figures]:
    tasks, seconds = found["tasks"], found["seconds"]
    print(
        f"joint {seconds['joint']:.0f} s; alone {seconds['alone']:.0f} s, "
        f"{seconds['alone_dev']:.0f} s of them to look at dev after every epoch"
    )
    lost = [name for name, each in tasks.items() if each["difference"]["high"] < 0]
    print(f"below Trainer's beyond the interval: {', '.join(lost) or 'none'}")
    mean = float(np.mean([each["joint"] - each["alone"] for each in tasks.values()]))
    lean = seconds["joint"] / (seconds["alone"] - seconds["alone_dev"])
    print(f"joint time in terms of Trainer's, were its looks at dev free: {lean:.3f}")
    return [
        bar("mean difference", mean, ">=", 0.0),
        bar("tasks below beyond their interval", len(lost), "<=", 0),
        bar("joint time in terms of Trainer's", seconds["joint"] / seconds["alone"], "<=", 0.5),
    ]


def main(given: Sequence[str] | None = None) -> Figures:
    options = parser(__doc__ or "")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    options.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    options.add_argument("--epochs", type=float, default=3.0, help="of both sides; default: 3")
    options.add_argument("--rounds", type=int, default=3, help="best of so many; default: 3")
    options.add_argument("--steps", type=int, default=20, help="steps that a round counts; default: 20")
    options.add_argument("--measure", choices=SIDES, help="one round of one side alone, for its memory")
    chosen = options.parse_args(given)
    count = min(chosen.limit or TEXTS, TEXTS)
    if chosen.measure:
        use_threads(chosen.threads)
        found = measured(chosen.measure, count, chosen.steps)
        print(json.dumps(found))
        return found
    record: Figures = {"benchmark": "training", "facts": facts(chosen.threads), "limit": chosen.limit}
    show_facts(record["facts"])

    def keeping(part: str) -> Callable[[Figures], None]:
        return lambda figures: keep(chosen.out, record | {part: figures})

    if "step" in chosen.parts:
        record["step"] = step(count, chosen.steps, chosen.rounds, chosen.threads, keeping("step"))
    if "joint" in chosen.parts:
        record["joint"] = joint(chosen.tasks, chosen.limit, chosen.epochs, chosen.threads, keeping("joint"))
    return record


if __name__ == "__main__":
    main()
