"""A tag for every word: a linear map of each word's features, and what follows what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from taskheads.backbone.reads import Read
from taskheads.heads.classify import temperature
from taskheads.heads.crf import log_likelihood, viterbi
from taskheads.heads.head import Decisions, Request
from taskheads.heads.linear import LinearHead
from taskheads.methods import method
from taskheads.tasks.task import Task

# How far the transitions are trusted beside the scores; 0 decides word by word.
_TRUST = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)


class TagHead(LinearHead):
    """Scores [words, tags] and transitions [tags + 1, tags]; the answer is the best path.

    With the option `crf`, both are the maximum-likelihood linear-chain CRF. Without it the scores are
    multinomial logistic regressions word by word, and the transitions are those of `transition_lift`, times a
    number chosen on dev, which costs nothing to fit.
    """

    kind = "tag"
    transitions: torch.Tensor

    def __init__(self, task: Task, reads: Sequence[Read], width: int) -> None:
        super().__init__(task, reads, width)
        self.additive = not self.crf  # the chain's loss has a term of its own, once
        transitions = torch.zeros(self.outputs + 1, self.outputs)
        if self.crf:
            self.transitions = nn.Parameter(transitions)
        else:
            self.register_buffer("transitions", transitions)

    @classmethod
    def requests_of(cls, task: Task) -> list[Request]:
        return [Request((0,), "words")]

    @property
    def curvature(self) -> float:
        return 0.1 / self.outputs

    @property
    def crf(self) -> bool:
        return bool(self.task.options.get("crf", False))

    def objective(
        self,
        scores: torch.Tensor,
        targets: torch.Tensor,
        extra: Sequence[torch.Tensor] = (),
        lengths: Sequence[int] | None = None,
    ) -> torch.Tensor:
        if not self.crf:
            return cross_entropy(scores, targets)
        # A word's share, so that a penalty means the same with and without the chain. The small term keeps
        # transitions finite that never occur.
        chain = log_likelihood(scores, targets, extra[0], lengths or [])
        return (1e-3 * extra[0].square().sum() - chain.sum()) / max(len(targets), 1)

    def as_numbers(self, targets: torch.Tensor) -> torch.Tensor:
        return one_hot(targets, self.outputs).to(torch.float32)

    def finish(self, targets: torch.Tensor, lengths: Sequence[int] | None = None) -> None:
        """Without `crf`, count the transitions."""
        if self.crf or lengths is None:
            return
        self.transitions.copy_(torch.from_numpy(transition_lift(targets.numpy(), lengths, self.outputs)))

    def calibrate(
        self, scores: torch.Tensor, targets: torch.Tensor, lengths: Sequence[int] | None = None
    ) -> float:
        if self.crf or not len(targets):
            return 1.0
        factor = temperature(scores, targets)
        self.rescale(factor)
        truth = self._rows(targets.numpy(), lengths or [])
        counted = self.transitions.clone()

        def utility(trust: float) -> float:
            path = viterbi(factor * scores, trust * counted, lengths or [])
            return self.metric.utility(self.metric.compute(truth, self._rows(path, lengths or [])))

        self.transitions.copy_(max(_TRUST, key=utility) * counted)
        return factor

    def decide(self, scores: torch.Tensor, lengths: Sequence[int] | None = None) -> Decisions:
        transitions = self.transitions.detach()
        # Without transitions, as while a head is being chosen, the best path is the best tag of every word.
        path = viterbi(scores, transitions, lengths or []) if transitions.any() else scores.argmax(1).numpy()
        return Decisions(self._rows(path, lengths or []))

    def answers(self, decisions: Decisions, *, scores: bool = False) -> list[dict[str, Any]]:
        return [{"tags": tags} for tags in decisions.predicted]

    def _rows(self, tags: np.ndarray, lengths: Sequence[int]) -> list[list[str]]:
        names = [self.task.labels[i] for i in tags.tolist()]
        ends = np.cumsum(lengths).tolist()
        return [names[end - size : end] for end, size in zip(ends, lengths, strict=True)]  # type: ignore[misc]


@method(
    "hybrid_hmm_tagging",
    family="heads",
    paper="Bourlard and Morgan 1994, Connectionist speech recognition: a hybrid approach, Kluwer",
    applies_to=("tag",),
)
def transition_lift(tags: np.ndarray, lengths: Sequence[int], count: int) -> np.ndarray:
    """Make a hidden Markov model of a word-by-word classifier: its posteriors p(tag | word) over the prior
    p(tag) stand in for likelihoods, so that log p(tag | tag before) / p(tag), counted on the training tags,
    is added to its scores and the best path is answered.

    tags int [words] of rows end to end, of `count` tags. Returns [count + 1, count], the last row from the
    start of a row; counts are add-one smoothed.
    """
    sizes = np.asarray(lengths, np.int64)
    before = np.concatenate([[count], tags])[:-1]
    before[(np.cumsum(sizes) - sizes)[sizes > 0]] = count
    follows = np.ones((count + 1, count))
    np.add.at(follows, (before, tags), 1.0)
    prior = np.bincount(tags, minlength=count) + 1.0
    return np.log(follows / follows.sum(1, keepdims=True)) - np.log(prior / prior.sum())


def spans(words: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """The entities of BIO tags: label, first word, word past the last, and their text.

    An `I` after another label or after `O` begins an entity, as conlleval reads it.
    """
    found: list[dict[str, Any]] = []
    label_before = None
    for at, tag in enumerate(tags):
        prefix, _, label = tag.partition("-")
        if tag == "O" or prefix not in ("B", "I"):
            label_before = None
            continue
        if prefix == "B" or label != label_before:
            found.append({"label": label, "start": at, "end": at})
        found[-1]["end"] = at + 1
        label_before = label
    for span in found:
        span["text"] = " ".join(words[span["start"] : span["end"]])
    return found
