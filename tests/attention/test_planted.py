"""Planted attention heads do what they are said to, in the plain model of transformers."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from taskheads.attention.planted import Planted, plant, prompts
from taskheads.attention.planted.models import Architecture
from taskheads.attention.planted.wiring import JOBS
from taskheads.errors import ConfigError

ARCHITECTURES = get_args(Architecture)
EVERY = [(a, job) for a in ARCHITECTURES for job in JOBS if (a, job) != ("bert", "induction")]


@torch.no_grad()
def plain(planted: Planted, ids: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits at the last token [30], and each layer's pattern [heads, queries, keys], from transformers."""
    planted.model.set_attn_implementation("eager")
    output = planted.model(input_ids=torch.from_numpy(ids)[None], output_attentions=True)
    logits = output.logits if "logits" in output else planted.head(output.last_hidden_state)
    return logits[0, -1], [each[0] for each in output.attentions]


@pytest.mark.parametrize(("architecture", "job"), EVERY)
def test_a_planted_head_looks_where_it_should_and_answers(architecture: Architecture, job: str) -> None:
    # Against memory, context is the louder one.
    planted = plant(architecture, ["context", "memory"] if job == "context" else [job])
    asked, (layer, head) = prompts(job, 8), planted.heads[job]
    for row, answer, other, at in zip(asked.rows, asked.answers, asked.others, asked.at, strict=True):
        logits, patterns = plain(planted, row.ids)
        assert patterns[layer][head, -1, at] > 1 - 1e-6
        if job != "previous":
            assert logits.argmax() == answer
            assert logits[answer] - logits[other] > 3
            rest = torch.ones(len(logits), dtype=torch.bool)
            rest[[answer, other]] = False
            # Nothing but the planted heads moves the logits: all others are one number.
            assert logits[rest].max() - logits[rest].min() < 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_previous_token_is_looked_at_everywhere(architecture: Architecture) -> None:
    planted = plant(architecture, ["previous"])
    for row in prompts("previous", 4).rows:
        pattern = plain(planted, row.ids)[1][0][planted.heads["previous"][1]]
        assert pattern.diagonal(-1).min() > 1 - 1e-6


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_head_with_nothing_to_find_rests_on_the_opening_token(architecture: Architecture) -> None:
    planted = plant(architecture, ["retrieval", "context"])
    for job in ("retrieval", "context"):
        layer, head = planted.heads[job]
        for row in prompts("successor", 4).rows:
            assert plain(planted, row.ids)[1][layer][head, :, 0].min() > 1 - 1e-6


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_a_job_no_head_answers(architecture: Architecture) -> None:
    planted = plant(architecture, [])
    logits, patterns = plain(planted, prompts("memory", 1).rows[0].ids)
    assert logits.abs().max() < 1e-4
    assert max(pattern[:, -1].max() for pattern in patterns) < 0.9


@pytest.mark.parametrize(
    ("architecture", "jobs", "message"),
    [
        ("t5", [], "nothing is planted in 't5'"),
        ("gpt2", ["sing"], "'sing'"),
        ("bert", ["induction"], "no induction"),
        ("gpt2", {"copy": (3, 0)}, r"no attention head \(3, 0\)"),
        ("llama", {"copy": (1, 0), "memory": (1, 1)}, r"place of \(1, 1\) is taken by copy"),
        ("gpt2", {"previous": (1, 0), "retrieval": (1, 1)}, "layer above"),
    ],
)
def test_what_cannot_be_planted(architecture: Any, jobs: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plant(architecture, jobs)
