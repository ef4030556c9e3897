"""The two sides of `training_step.py`: the product's loop and Hugging Face Trainer, on the same rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from embedding import mixed_texts
from report import Seconds, data_folder, model_folder
from trainer import encoder, of_text, train

TOKENS = 2048
WARM = 2  # steps before the clock starts
CLASSES = 5
RATE = 5e-5
TASK = "length"
Marks = dict[int, tuple[int, Seconds]]  # by step: the tokens so far, and the time


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


def recipe(steps: int, clip: float) -> Any:
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

    def round(self, steps: int) -> Marks:
        """Dev is looked at after the last step, which for that reason is one more than counts."""
        marks: Marks = {}

        def note(course: Any) -> None:
            marks[course.step] = course.tokens, Seconds.now()

        self.run(WARM + steps + 1, note).train()
        return marks


class Theirs:
    """Trainer's side."""

    def __init__(self, data: Texts) -> None:
        from torch.nn.functional import cross_entropy
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model_folder())
        self.model = encoder(CLASSES, of_text, cross_entropy)
        limit = min(self.tokenizer.model_max_length, self.model.model.config.max_position_embeddings)
        ids = self.tokenizer(data.texts, truncation=True, max_length=limit)
        self.rows = [
            {key: ids[key][row] for key in ids} | {"labels": label} for row, label in enumerate(data.labels)
        ]

    @cached_property
    def lengths(self) -> np.ndarray:
        """The tokens of each row."""
        return np.asarray([len(row["input_ids"]) for row in self.rows])

    def round(self, steps: int, batch: int) -> Marks:
        """Dynamic padding; the optimiser steps after about as many rows as the product's step has."""
        from transformers import TrainerCallback

        marks: Marks = {}
        model = self.model

        class Note(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                marks[state.global_step] = model.tokens, Seconds.now()

        at_once = max(1, round(TOKENS / self.lengths.mean() / batch))
        count = (WARM + steps + 1) * at_once * batch
        self.train(
            [self.rows[row] for row in in_order(self.lengths, count)],
            callbacks=[Note()],
            max_steps=WARM + steps + 1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=at_once,
            train_sampling_strategy="sequential",
        )
        return marks

    def train(self, rows: list[Any], kind: Any = None, callbacks: Any = None, **said: Any) -> None:
        """Train on these rows by `kind` of Trainer."""
        from transformers import DataCollatorWithPadding

        with tempfile.TemporaryDirectory() as folder:
            train(
                self.model,
                folder,
                kind,
                said={"learning_rate": RATE, "lr_scheduler_type": "constant"} | said,
                train_dataset=rows,
                data_collator=DataCollatorWithPadding(self.tokenizer),
                processing_class=self.tokenizer,
                callbacks=callbacks,
            )


def in_order(lengths: np.ndarray, count: int) -> list[int]:
    """The first `count` rows that the product's loop takes of rows with these lengths."""
    from taskheads.training.joint.stream import Stream

    stream, rows = Stream({TASK: lengths}, TOKENS, {TASK: 1.0}, seed=0), list[int]()
    while len(rows) < count:
        rows += stream.draw()[TASK].tolist()
    return rows[:count]
