"""PTEC: a soft prompt, and a head in place of the language head; and the text-to-text way beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from taskheads.backbone.backbone import Backbone
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.edits.prompts.tuning import PromptTuning
from taskheads.methods import method


@method("ptec", family="edits", paper="arXiv:2309.12075", applies_to=("multilabel", "classify"))
class Ptec(PromptTuning):
    """PTEC: `length` learned vectors stand before each row, and the task's own head reads the last hidden
    states where a language model would generate label texts.

    Buchner et al. 2024: prompt and head are trained together, each at a learning rate of its own (here `lr`
    and the recipe's `head_lr`), with a binary cross-entropy for each label, so that the order of the gold
    labels means nothing and every label has a probability. The prompt's rate is the higher one by default:
    our choice, since a prompt alone moves slowly. `LabelTrie` and `text_loss` are the text-to-text way.

    Parameters
    ----------
    length: vectors of the prompt.
    """

    lr = 1e-2


def text_loss(
    backbone: Backbone,
    language_head: nn.Module,
    texts: Sequence[np.ndarray],
    answers: Sequence[Sequence[int]],
    tasks: Sequence[tuple[str, int]] = (),
) -> torch.Tensor:
    """The text-to-text loss: the mean cross-entropy of the answers' tokens, each after its text [n] and the
    answer's earlier tokens.

    With several labels an answer has them in some order, and the loss is another for another order.
    """
    batch = RaggedBatch(
        [Encoded(np.concatenate([text, answer])) for text, answer in zip(texts, answers, strict=True)],
        tasks=tasks,
    ).to(backbone.device)
    output = backbone.run(batch)["output"]
    counts = torch.tensor([len(answer) for answer in answers], device=output.device)
    asked = batch.positions >= (batch.counts - counts)[batch.row_of_token]
    at = asked.nonzero()[:, 0]
    return cross_entropy(language_head(output[at - 1]), batch.ids[at])
