"""One task fine-tuned by Hugging Face Trainer: the peer of `joint.py`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from report import model_folder
from trainer import encoder, of_pair, of_text, of_tokens, train

if TYPE_CHECKING:
    import torch

HEAD_RATE = 1e-3  # the product's own; the heads would hardly move at the encoder's rate
WARMUP = 0.1
BATCH = 16
AT_ONCE = 64  # rows a batch where nothing is learned
IGNORED = -100


class Alone:
    """A task's rows as Trainer takes them, its model, its decisions.

    Texts: linear head on the mean of the last layer; multi-label with one threshold chosen on dev. Numbers:
    the same, fitted to the standardised ones. Pairs: the cosine of both texts, fitted to the similarity
    brought to 0 to 1. Tags: linear head on a word's first subword. The weights of the epoch that is best on
    dev are kept.
    """

    def __init__(self, data: Any) -> None:
        from transformers import AutoConfig, AutoTokenizer

        from probes import judge

        self.data, self.task, self.metric = data, data.task, judge(data.task)
        self.tokenizer = AutoTokenizer.from_pretrained(model_folder())
        config = AutoConfig.from_pretrained(model_folder())
        self.limit = min(self.tokenizer.model_max_length, config.max_position_embeddings)
        self.low, self.unit = self._scale()
        self.rows = {split: self._rows(split) for split in ("train", "dev", "test")}
        self.looked = 0.0  # seconds, at dev

    def fit(self, rate: float, epochs: float, seed: int = 0) -> tuple[float, Any]:
        """The dev utility at this learning rate, and the decisions about test."""
        import torch
        from transformers import TrainerCallback, set_seed

        set_seed(seed)
        model = self._model()
        best: list[Any] = [-np.inf, {}, None]

        class Look(TrainerCallback):
            def on_epoch_end(look, args: Any, state: Any, control: Any, **_: Any) -> None:
                start = time.perf_counter()
                value, threshold = self._on_dev(model)
                if not best[1] or value > best[0]:
                    weights = {key: each.clone() for key, each in model.state_dict().items()}
                    best[:] = value, weights, threshold
                self.looked += time.perf_counter() - start

        groups = [
            {"params": [each for each in part.parameters() if (each.ndim > 1) == matrix], "lr": at}
            | {"weight_decay": 0.01 if matrix else 0.0}
            for part, at in ((model.model, rate), (model.head, HEAD_RATE))
            for matrix in (True, False)
        ]
        said = {
            "num_train_epochs": epochs,
            "per_device_train_batch_size": BATCH,
            "warmup_steps": WARMUP,
            "lr_scheduler_type": "cosine",
            "seed": seed,
        }
        with tempfile.TemporaryDirectory() as folder:
            train(
                model,
                folder,
                said=said,
                train_dataset=self.rows["train"],
                data_collator=self.collate,
                callbacks=[Look()],
                optimizers=(torch.optim.AdamW(groups, fused=True), None),
            )
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

    def _scale(self) -> tuple[float, float]:
        """Which number is 0 to the loss, and how far it is from there to 1."""
        if self.task.kind not in ("pair", "regress"):
            return 0.0, 1.0
        values = np.asarray(self.data.splits["train"].targets, float)
        if self.task.kind == "pair":
            return values.min(), np.ptp(values)
        return values.mean(), values.std()

    def _rows(self, split: str) -> list[dict[str, Any]]:
        from taskheads.tasks.labels import encode

        examples = self.data.splits[split]
        targets = encode(self.task, examples)
        if self.task.kind in ("pair", "regress"):
            targets = ((targets - self.low) / self.unit).astype(np.float32)
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
        if kind == "regress":
            return encoder(outputs, of_text, lambda logits, labels: f.mse_loss(logits[:, 0], labels))
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
        if kind in ("pair", "regress"):
            return self.low + self.unit * scores.reshape(len(scores)).astype(float)
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
        # A correlation with answers that are all alike is no number.
        utility = np.nan_to_num(utility, nan=-np.inf).tolist()
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
