"""LoRA for detecting machine-generated text, and the vote of several detectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taskheads.edits.low_rank.lora import Lora
from taskheads.errors import ConfigError
from taskheads.methods import method


def majority_vote(answers: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """The commonest answer for each row, [rows], of an odd number of voters' answers [voters, rows].

    Among more than two labels several may be equally common: then the earliest voter who gave one of them
    decides. With independent voters, each right with probability p > 1/2 in a choice of two, the vote is
    right with the probability that more than half of a binomial's trials succeed (Condorcet), which grows
    with the number of voters. Raises ConfigError for an even number, which can tie.
    """
    votes = np.asarray(answers)
    if votes.ndim != 2 or len(votes) % 2 == 0:
        raise ConfigError(f"a majority needs an odd number of voters over the same rows, not {votes.shape}")
    agreeing = (votes[:, None] == votes[None]).sum(1)  # for each voter and row, how many say the same
    return votes[agreeing.argmax(0), np.arange(votes.shape[1])]


@method("lora_roberta_mgt_detection", family="edits", paper="arXiv:2401.12326")
class DetectionLora(Lora):
    """LoRA for detecting machine-generated text: low-rank updates of attention's projections under a
    classification head, and several such detectors joined by a majority vote.

    Xiong et al. 2024 (SemEval-2024, task 8). The edit is `lora`, and so are its options; the detectors of an
    ensemble are tasks with the same labels and data, whose answers `majority_vote` joins.
    """
