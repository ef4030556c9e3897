"""The benchmark of which head a tuned backbone should get."""

from __future__ import annotations

import json

import pytest

HEADS = {"trained": {"dev": 0.5, "loss": 1.0, "test": 0.4}, "solved": {"dev": 0.6, "loss": 1.1, "test": 0.3}}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("always trained", "trained"),
        ("always solved", "solved"),
        ("by score on dev", "solved"),
        ("by loss on dev", "trained"),
    ],
)
def test_every_rule_takes_the_head_it_is_named_after(script, rule, expected):
    assert script("settling").RULES[rule](HEADS) == expected


def test_both_heads_of_every_task_and_seed_are_kept(script, tmp_path, capsys):
    out = tmp_path / "settling.json"
    options = ["--tasks", "sst5", "offensiveness", "--limit", "40", "--epochs", "1", "--seeds", "2"]
    script("settling").main([*options, "--threads", "1", "--out", str(out)])
    record = json.loads(out.read_text())
    assert [list(run) for run in record["scores"]] == [["sst5", "offensiveness"]] * 2
    found = [heads for run in record["scores"] for heads in run.values()]
    assert all(set(heads) == {"trained", "solved"} for heads in found)
    for head in ("trained", "solved"):
        mean = sum(heads[head]["test"] for heads in found) / len(found)
        assert record["rules"][f"always {head}"] == pytest.approx(mean)
    least = sum(min(heads.values(), key=lambda each: each["loss"])["test"] for heads in found) / len(found)
    assert record["rules"]["by loss on dev"] == pytest.approx(least)
    assert "mean score on test" in capsys.readouterr().out
