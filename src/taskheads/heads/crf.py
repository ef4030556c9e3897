"""A linear chain over the words of each row: its likelihood and its best path, without padding.

Rows stand end to end. Step t works on the t-th word of every row that has one; with the longest rows first
those are always a leading slice, so each step is one operation on just the rows that are still going.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from taskheads.methods import method


@dataclass(frozen=True)
class Chains:
    """Where the words of rows with these lengths stand, longest row first.

    order: the rows by falling length; starts: their first words; going[t]: how many rows have a word t.
    """

    order: np.ndarray
    starts: torch.Tensor
    going: list[int]

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Chains:
        sizes = np.asarray(lengths, np.int64)
        order = np.argsort(-sizes, kind="stable")
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])[order]
        longest = int(sizes.max(initial=0))
        going = np.searchsorted(-sizes[order], -np.arange(1, longest + 1), side="right").tolist()
        return cls(order, torch.from_numpy(starts), going)


@method(
    "linear_chain_crf",
    family="heads",
    paper="Lafferty, McCallum and Pereira 2001, Conditional random fields, ICML",
    applies_to=("tag",),
)
def log_likelihood(
    scores: torch.Tensor, tags: torch.Tensor, transitions: torch.Tensor, lengths: Sequence[int]
) -> torch.Tensor:
    """The log-likelihood of each row's tags in a linear-chain conditional random field: the tags' sum of
    word scores [words, C] and transitions [C + 1, C] (from tag to tag, the last row from the start), less the
    log-sum over all paths by the forward algorithm, over rows of any length without padding.

    `tags` int [words]; the rows that have a word stand in the order of `Chains`.
    """
    chains = Chains.of(lengths)
    if not chains.going:
        return scores.sum(1)
    start, step = transitions[-1], transitions[:-1]
    rows = chains.starts[: chains.going[0]]
    alpha = start + scores[rows]
    path = start[tags[rows]] + scores[rows, tags[rows]]
    total, ended = [], []
    for t, going in enumerate(chains.going[1:], start=1):
        total.append(path[going:])
        ended.append(alpha[going:].logsumexp(1))
        now = chains.starts[:going] + t
        path = path[:going] + step[tags[now - 1], tags[now]] + scores[now, tags[now]]
        alpha = (alpha[:going, :, None] + step).logsumexp(1) + scores[now]
    # Rows end shortest first, which is the chains' order turned round.
    return torch.cat([path, *total[::-1]]) - torch.cat([alpha.logsumexp(1), *ended[::-1]])


def viterbi(scores: torch.Tensor, transitions: torch.Tensor, lengths: Sequence[int]) -> np.ndarray:
    """The best path of every row, tags int [words], under the sum of scores and transitions (as above)."""
    best = torch.empty(len(scores), dtype=torch.int64)
    if not len(scores):
        return best.numpy()
    chains = Chains.of(lengths)
    start, step = transitions[-1], transitions[:-1]
    rows = chains.starts[: chains.going[0]]
    delta = start + scores[rows]
    finals, back = [delta], [torch.empty(0)]
    for t, going in enumerate(chains.going[1:], start=1):
        reached, came = (delta[:going, :, None] + step).max(1)
        delta = reached + scores[chains.starts[:going] + t]
        finals.append(delta)
        back.append(came)
    for t in range(len(finals) - 1, -1, -1):
        going = chains.going[t]
        later = chains.going[t + 1] if t + 1 < len(finals) else 0
        now = chains.starts[:going] + t
        best[now[later:]] = finals[t][later:].argmax(1)
        if later:
            following = best[chains.starts[:later] + t + 1]
            best[now[:later]] = back[t + 1].gather(1, following[:, None])[:, 0]
    return best.numpy()
