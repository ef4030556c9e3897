"""Soft injection: all of a few-shot run, none of it, and what is learned between."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taskheads.attention.asked import answered, last_vectors
from taskheads.attention.few_shot import mean_last_outputs
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.measures import log_probability
from taskheads.attention.planted import Planted, plant
from taskheads.attention.planted.wiring import ASKING, FACTS, LETTERS, OPENING, SUBJECTS
from taskheads.attention.steer.soft_injection import SoftInjection
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import ConfigError
from tests.attention.test_heads import backbone_of
from tests.backbone.test_sites import batch, close


@pytest.mark.method("soft_injection")
@torch.no_grad()
def test_all_of_it_is_the_few_shot_run_and_none_of_it_the_model() -> None:
    # Without absolute positions the last token's vector is its embedding and what heads and blocks add.
    heads = AttentionHeads(backbone_of("llama"))
    shown = RaggedBatch([Encoded(np.array([7, 40, 8, 41, 9, 42, 5]))])
    asked = RaggedBatch([Encoded(np.array([11, 5])), Encoded(np.array([30, 31, 32, 5]))])
    embeddings = mean_last_outputs(heads, [shown])
    whole = SoftInjection(embeddings, torch.ones(heads.shape), heads.which())
    close(
        last_vectors(heads.backbone, asked, whole(asked)), last_vectors(heads.backbone, shown).expand(2, -1)
    )
    plain = heads.backbone.run(asked)["output"]
    none = SoftInjection(embeddings, torch.zeros(heads.shape), heads.which())
    assert torch.equal(heads.backbone.run(asked, changes=none(asked))["output"], plain)
    half = SoftInjection(embeddings, torch.full(heads.shape, 0.5), heads.which())
    site = "layers.0.attention.heads"
    before, after = (heads.backbone.run(asked, [site], c)[site] for c in (None, half(asked)))
    close(after[[1, 5]], (before[[1, 5]] + embeddings[site]) / 2)
    assert torch.equal(after[[0, 2, 3, 4]], before[[0, 2, 3, 4]])


@pytest.mark.method("soft_injection")
def test_embeddings_are_means_over_prompts() -> None:
    heads = AttentionHeads(backbone_of("gpt2"))
    rows = batch()
    found = mean_last_outputs(heads, [rows, rows.repeated(2)])
    with torch.inference_mode():
        z = heads.backbone.run(rows, ["layers.2.attention.heads"])["layers.2.attention.heads"]
    close(found["layers.2.attention.heads"], z[rows.starts + rows.counts - 1].mean(0))
    with pytest.raises(ConfigError, match="no row"):
        mean_last_outputs(heads, [])


def model() -> tuple[Planted, AttentionHeads]:
    """Memory is loudest, and where nothing else is said the last token is said again."""
    planted = plant("llama", ["retrieval", "memory", "copy"])
    heads = AttentionHeads(planted.backbone)
    with torch.no_grad():
        for job, loudness in (("memory", 3.0), ("copy", 0.5)):
            layer, head = planted.heads[job]
            heads.output_weight(layer)[head] *= loudness
    return planted, heads


Task = tuple[RaggedBatch, RaggedBatch, list[int]]


def letter_unless_known(letter: int, seed: int) -> Task:
    """Answer with a letter, or a subject with its attribute. Shown: rows that say the letter after the last
    token; asked: rows that say nothing of it. The task needs the retrieval head's outputs, and the memory
    head's as they are."""
    draw = np.random.default_rng(seed)
    shown, asked, answers = [], [], []
    others = [token for token in LETTERS if token != letter]
    for number in range(16):
        key, *rest = draw.permutation(others)[:5].tolist()
        key = int(draw.choice(SUBJECTS)) if number % 2 else key
        shown.append([OPENING, rest[0], letter, key, letter, ASKING, key])
        asked.append([OPENING, *rest, ASKING, key])
        answers.append(FACTS.get(key, letter))
    return RaggedBatch(_rows(shown)), RaggedBatch(_rows(asked)), answers


def always_the_fact(seed: int) -> Task:
    """Answer with what the model knows of one subject, whatever is asked: the memory head's outputs."""
    draw = np.random.default_rng(seed)
    some = [draw.permutation(LETTERS)[:4].tolist() for _ in range(16)]
    shown = RaggedBatch(_rows([[OPENING, *each, SUBJECTS[1]] for each in some]))
    asked = RaggedBatch(_rows([[OPENING, *each] for each in some]))
    return shown, asked, [FACTS[SUBJECTS[1]]] * 16


def _rows(tokens: list[list[int]]) -> list[Encoded]:
    return [Encoded(np.array(each)) for each in tokens]


@pytest.mark.method("soft_injection")
def test_the_heads_of_a_task_serve_one_like_it_and_no_other() -> None:
    planted, heads = model()
    first, second = letter_unless_known(LETTERS[2], 0), letter_unless_known(LETTERS[7], 1)
    third = always_the_fact(2)

    def fitted(task: Task) -> SoftInjection:
        shown, asked, answers = task
        return SoftInjection.fit(
            heads, [shown], {asked: log_probability(planted.head, answers)}, steps=40, lr=0.3
        )

    def right(task: Task, changing: SoftInjection | None) -> float:
        _, asked, answers = task
        says = torch.tensor(answers)
        with torch.inference_mode():
            found = answered(
                planted.backbone, {asked: lambda v: (planted.head(v).argmax(1) == says).float()}, changing
            )
        return float(found.mean())

    def lent(shares: torch.Tensor, task: Task) -> SoftInjection:
        return SoftInjection(mean_last_outputs(heads, [task[0]]), shares, heads.which())

    mine, other = fitted(first), fitted(third)
    assert right(first, None) == 0.5
    assert right(first, mine) == 1
    # Its own embeddings, the other's heads.
    assert right(second, lent(mine.shares, second)) == 1
    assert right(third, None) == 0
    assert right(third, other) == 1
    assert right(third, lent(mine.shares, third)) == 0
    assert mine.scores.values[planted.heads["retrieval"]] > 0.8
    assert mine.scores.values[planted.heads["memory"]] < 0.2 < 0.8 < other.shares[planted.heads["memory"]]
