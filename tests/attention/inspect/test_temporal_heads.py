"""Temporal heads: found by contrast, lost without them what changes, patched another time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from taskheads.attention.changing import scaled
from taskheads.attention.heads import AttentionHeads
from taskheads.attention.inspect.temporal_heads import Facts, TemporalHeads, at_another_time
from taskheads.attention.measures import log_probability, logit_difference
from taskheads.attention.planted import plant, prompts
from taskheads.backbone.changes import Changes
from taskheads.backbone.ragged import Encoded, RaggedBatch
from taskheads.errors import ConfigError
from tests.attention.trained import Trained, World, facts


def batch_of(rows: torch.Tensor) -> RaggedBatch:
    return RaggedBatch([Encoded(row.numpy()) for row in rows])


def said(made: Trained, rows: torch.Tensor, changes: Changes | None = None) -> torch.Tensor:
    with torch.no_grad():
        output = made.heads.backbone.run(batch_of(rows), changes=changes)["output"]
    return made.head(output.unflatten(0, rows.shape)[:, -1]).argmax(1)


def found_in(made: Trained, world: World) -> TemporalHeads:
    """By year, against the same prompts with the next year; constants against the next entity."""
    rows, answers = world.prompts(World.CHANGING)
    temporal = {}
    for year in range(World.YEARS):
        mine, others = (rows[:, 1] == 3 + each for each in (year, (year + 1) % World.YEARS))
        temporal[f"year {year}"] = Facts(
            batch_of(rows[mine]),
            logit_difference(made.head, answers[mine], answers[others]),
            batch_of(rows[others]),
        )
    rows, answers = world.prompts(World.CONSTANT)
    other = rows.roll(World.YEARS, 0)
    invariant = Facts(batch_of(rows), log_probability(made.head, answers), batch_of(other))
    return TemporalHeads.found(made.heads, temporal, {"constant": invariant})


@pytest.mark.method("temporal_heads")
def test_in_a_trained_model_only_what_changes_hangs_on_them() -> None:
    made, world = facts()
    found = found_in(made, world).heads
    assert found == ((0, 0),)
    changing, constant = (world.prompts(asked) for asked in (World.CHANGING, World.CONSTANT))

    def right(changes: Changes | None = None) -> list[float]:
        return [float((said(made, rows, changes) == a).float().mean()) for rows, a in (changing, constant)]

    assert right() == [1, 1]
    lost, kept = right(scaled(found, 0))
    # By guessing among an entity's years: one of four.
    assert lost < 0.4
    assert kept > 0.95
    others = [right(scaled([other], 0)) for other in set(made.heads.which()) - set(found)]
    assert sum(kept - lost for lost, kept in others) / len(others) < 0.25


@pytest.mark.method("temporal_heads")
def test_what_they_say_of_another_year_is_that_years_fact() -> None:
    made, world = facts()
    found = found_in(made, world).heads
    rows, answers = world.prompts(World.CHANGING)
    then = rows.clone()
    then[:, 1] = 3 + (rows[:, 1] - 3 + 1) % World.YEARS
    wanted = answers.view(-1, World.YEARS).roll(-1, 1).flatten()
    changes = at_another_time(made.heads, found, batch_of(rows), batch_of(then))
    assert (said(made, rows, changes) == wanted).float().mean() > 0.9
    # Another head's say changes no year.
    changes = at_another_time(made.heads, [(0, 1)], batch_of(rows), batch_of(then))
    assert (said(made, rows, changes) == answers).all()
    plain = said(made, rows, at_another_time(made.heads, found, batch_of(rows), batch_of(then), factor=0.0))
    assert (plain == answers).all()


@pytest.mark.method("temporal_heads")
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bert"])
def test_planted_heads_are_found_by_contrast(architecture: Any) -> None:
    # What the context says stands for what changes, what memory knows for what does not.
    planted = plant(architecture, ["context", "memory"])
    heads = AttentionHeads(planted.backbone)

    def facts_of(job: str, seed: int) -> Facts:
        asked = prompts(job, 8, seed=seed)
        return Facts(RaggedBatch(asked.rows), logit_difference(planted.head, asked.answers, asked.others))

    temporal = {f"time {seed}": facts_of("context", seed) for seed in range(3)}
    found = TemporalHeads.found(heads, temporal, {"known": facts_of("memory", 5)})
    # The head that it stands on looks where it does so surely that no gradient sees it.
    assert found.heads == (planted.heads["context"],)
    assert found.scores.tasks == ("time 0", "time 1", "time 2", "known")
    assert found.scores.of_task("known").top(1) == (planted.heads["memory"],)


def test_both_kinds_are_needed() -> None:
    made, _ = facts()
    with pytest.raises(ConfigError, match="against facts that do not"):
        TemporalHeads.found(made.heads, {}, {})
