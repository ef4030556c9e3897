"""The atoms that signals are made of are found; so are the heads that write a kind of token."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from taskheads.attention.asked import last_vectors
from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.head_pursuit import head_pursuit, pursued
from taskheads.attention.planted import plant, prompts
from taskheads.attention.planted.wiring import ATTRIBUTES
from taskheads.attention.vocabulary import unembedding
from taskheads.backbone.ragged import RaggedBatch
from taskheads.errors import ConfigError


def dictionary(atoms: int = 200, width: int = 64) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(atoms, width), dim=1)


@pytest.mark.method("head_pursuit")
def test_the_atoms_of_a_signal_are_recovered_and_the_residual_is_at_right_angles() -> None:
    words = dictionary()
    known = [3, 50, 77, 120, 199]
    signals = torch.randn(40, 5) @ words[known] + 1e-3 * torch.randn(40, 64)
    found = pursued(signals, words, 5)
    assert sorted(found.atoms) == known
    assert (found.residual @ words[known].T).abs().max() < 1e-5
    torch.testing.assert_close(found.coefficients @ words[list(found.atoms)] + found.residual, signals)
    steps = [pursued(signals, words, n).residual.norm() for n in range(1, 8)]
    assert all(later <= earlier for earlier, later in pairwise(steps))
    torch.testing.assert_close(found.explained[-1], 1 - (steps[4] / signals.norm()) ** 2)


@pytest.mark.method("head_pursuit")
def test_one_step_on_one_sample_is_the_logit_lens() -> None:
    words = dictionary()
    for signal in torch.randn(20, 1, 64):
        assert pursued(signal, words, 1).atoms == (int((words @ signal[0]).abs().argmax()),)


@pytest.mark.method("head_pursuit")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_the_head_that_writes_attributes_is_found_and_turned_round(architecture: str) -> None:
    planted = plant(architecture, ["memory", "previous"])  # type: ignore[arg-type]
    heads, asked = AttentionHeads(planted.backbone), prompts("memory", 12)
    kind = list(ATTRIBUTES)
    concept = unembedding(heads, planted.head)[kind]
    scores = head_pursuit(heads, planted.backbone.batches(asked.rows), concept)
    assert scores.above(0.1) == (planted.heads["memory"],)
    assert scores.values[planted.heads["memory"]] > 0.9
    assert scores.manifest["n"] == 12

    batch = RaggedBatch(asked.rows)
    with torch.inference_mode():
        turned = scaled(scores.top(1), -1)
        plain, after = (
            planted.head(last_vectors(heads.backbone, batch, changes))[range(12), asked.answers]
            for changes in (None, turned)
        )
    assert (after < plain - 3).all()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_in_a_random_model_nobody_writes_them(architecture: str) -> None:
    planted = plant(architecture, [])  # type: ignore[arg-type]
    heads = AttentionHeads(planted.backbone)
    concept = unembedding(heads, planted.head)[list(ATTRIBUTES)]
    batches = planted.backbone.batches(prompts("memory", 12).rows)
    assert not head_pursuit(heads, batches, concept).above(0.1)


def test_a_head_that_writes_nothing_explains_nothing() -> None:
    assert pursued(torch.zeros(4, 64), dictionary(), 2).explained.tolist() == [0, 0]


def test_a_concept_has_tokens() -> None:
    planted = plant("gpt2", [])
    with pytest.raises(ConfigError, match="over 0 tokens"):
        head_pursuit(AttentionHeads(planted.backbone), [], torch.zeros(0, 256))
