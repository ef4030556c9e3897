"""Trainer's side of the training benchmarks: the encoder with a linear head, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from report import model_folder

if TYPE_CHECKING:
    import torch

Score = Callable[["torch.Tensor", "torch.Tensor", Any], "torch.Tensor"]
Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def encoder(outputs: int, score: Score, loss: Loss) -> Any:
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

    return Encoder()


def without_dropout(model: Any) -> None:
    """Let `model` train without dropout."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def mean_pooled(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of each row's token vectors [n, width], padding left out."""
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


def train(model: Any, folder: str, kind: Any = None, *, said: Mapping[str, Any], **given: Any) -> None:
    """Train `model` by `kind` of Trainer, on the CPU; nothing is saved, logged or evaluated.

    `said` are further training arguments, `given` what else Trainer takes.
    """
    from transformers import PrinterCallback, Trainer, TrainingArguments

    arguments = TrainingArguments(
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
        **said,
    )
    trainer = (kind or Trainer)(model=model, args=arguments, **given)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
